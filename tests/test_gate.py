"""The gate decides by rules, says why, and tells CI by its exit code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolweave import cli
from toolweave.errors import DataError
from toolweave.evals.bfcl_match import match
from toolweave.evals.cases import held_out_visits
from toolweave.evals.challenges import challenge_visits
from toolweave.evals.forgetting import load_instructions
from toolweave.evals.gate import Evidence, Verdict, decide, read_rules
from toolweave.evals.html import difference
from toolweave.evals.results import load_results, save_results
from toolweave.evals.score import VisitResult
from toolweave.evals.stats import bootstrap, mcnemar, pass_hat_k
from toolweave.evals.visit import run_visit
from toolweave.models.scripted import ScriptedModel

VISITS = held_out_visits(60) + challenge_visits()


def results(right: bool) -> list[VisitResult]:
    """Results of a model that is always right, or never but on chat."""
    answered = [run_visit(visit, ScriptedModel([visit.turn.answer] * 6)) for visit in VISITS]
    good = dict.fromkeys(("called", "right", "faithful", "stopped"), True)
    chat = ("no_call", "irrelevant")
    return [replace(r, failures=(), **good) if right or r.line in chat else replace(r, right=False) for r in answered]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gate")
    save_results(folder / "base.jsonl", results(right=False))
    save_results(folder / "tuned.jsonl", results(right=True))
    return folder


@pytest.mark.parametrize(("base", "tuned", "code"), [("base", "tuned", 0), ("tuned", "base", 1), ("tuned", "tuned", 1)])
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_compare_ends_with_the_verdict(
    saved: Path, base: str, tuned: str, code: int, lang: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(saved / f"{name}.jsonl") for name in (base, tuned)]
    with pytest.raises(SystemExit) as stop:
        cli.main(["eval", "compare", *files, "--output", str(tmp_path), "--lang", lang])
    assert (stop.value.code or 0) == code
    assert ("结论" if lang == "zh" else "verdict") in capsys.readouterr().out
    assert json.loads((tmp_path / "gate.json").read_text())["verdict"] == ("pass" if code == 0 else "fail")
    assert "data:image/png" in (tmp_path / "report.html").read_text("utf-8")
    assert len(Xml.fromstring((tmp_path / "junit.xml").read_text("utf-8"))) == len(read_rules())


def test_results_come_back_as_saved(saved: Path) -> None:
    assert load_results(saved / "tuned.jsonl") == results(right=True)


def test_a_rise_of_the_loss_fails() -> None:
    same = results(right=True)
    rules = [rule for rule in read_rules() if rule.metric == "chat_loss"]
    evidence = Evidence(same, same, {"a": 2.0, "b": 2.0}, {"a": 2.3, "b": 2.2})
    assert decide(evidence, rules).verdict is Verdict.FAIL
    assert decide(Evidence(same, same), rules).rulings[0].verdict is Verdict.SKIPPED


def test_results_of_other_visits_are_refused() -> None:
    same = results(right=True)
    with pytest.raises(DataError, match="no visit in common"):
        decide(Evidence(same, [replace(r, id="x" + r.id) for r in same]), read_rules())


@pytest.mark.parametrize("text", ["rules: [{name: a}]", "rules: [{name: a, metric: b, at_least: 1}]", "nothing", "- 1"])
def test_bad_rules_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(DataError):
        read_rules(path)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_a_symmetric_probability(gained: int, lost: int) -> None:
    p = mcnemar(gained, lost)
    assert 0 < p <= 1
    assert p == mcnemar(lost, gained)


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=40))
def test_the_bootstrap_interval_is_ordered(differences: list[float]) -> None:
    low, high = bootstrap(differences)
    assert -1 <= low <= high <= 1


def test_pass_hat_k() -> None:
    assert pass_hat_k([(3, 3), (0, 3)], 3) == pytest.approx(0.5)
    assert pass_hat_k([(2, 3)], 2) == pytest.approx(1 / 3)


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_difference_is_safe_html(old: str, new: str) -> None:
    marked = difference(old, new)
    for tag in ("<ins>", "</ins>", "<del>", "</del>"):
        marked = marked.replace(tag, "")
    assert "<" not in marked


def test_instructions_accept_and_refuse() -> None:
    yes = next(item for item in load_instructions() if item.id == "instruction-en-00")
    assert yes.followed("Yes.")
    assert not yes.followed("Yes, ice is colder.")


def test_bfcl_matching() -> None:
    schema = {"properties": {"city": {"type": "string"}, "n": {"type": "integer"}}, "required": ["city"]}
    function = {"name": "weather", "parameters": schema}
    answer = [{"weather": {"city": ["New York", "NY"], "n": [1, ""]}}]
    assert match("simple", [function], [{"weather": {"city": "new-york"}}], answer) is None
    assert match("simple", [function], [{"weather": {"city": "York"}}], answer)
    assert match("simple", [function], [], answer) == "wrong number of calls"
    assert match("parallel", [function], [{"weather": {"city": "NY", "n": "1"}}], answer)
