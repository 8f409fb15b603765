"""Whole runs of `eval run` and `eval compare` against models behind HTTP that know the answers, or do not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from oracle import Oracle, served
from toolweave import cli
from toolweave.data.jsonl import write_jsonl
from toolweave.errors import DataError, ToolweaveError
from toolweave.evals.cache import ReplyCache
from toolweave.evals.cases import Line, Visit, held_out_visits, read_visits, visit_json
from toolweave.evals.challenges import challenge_visits
from toolweave.evals.gate import Evidence, Rule, Verdict, decide
from toolweave.evals.results import load_results, save_results
from toolweave.evals.score import VisitResult
from toolweave.evals.session import Order
from toolweave.evals.targets import read_agent
from toolweave.evals.visit import History, Plan, ToolMode, run_visit, run_visits
from toolweave.models.scripted import ScriptedModel
from toolweave.types import Lang, Message

VISITS = held_out_visits(16)
FOLLOW_UP = next(visit for visit in held_out_visits() if visit.line is Line.FOLLOW_UP)


def evaluate(url: str, folder: Path, *arguments: str, name: str = "results") -> list[VisitResult]:
    """Run the command and return its results."""
    output = folder / f"{name}.jsonl"
    with pytest.raises(SystemExit) as stop:
        cli.main(["eval", "run", "--model", url, "--output", str(output), "--cache", str(folder / "cache"), *arguments])
    assert not stop.value.code
    return load_results(output)


def llm(url: str) -> dict[str, object]:
    return {"model_server": "openai", "model": "oracle", "api_base": url, "max_retries": 0}


def test_a_second_run_asks_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oracle = Oracle(VISITS)
    with served(oracle) as url:
        first = evaluate(url, tmp_path, "--set", "held_out", "--limit", "16", "--lang", "zh")
        asked = oracle.asked
        second = evaluate(url, tmp_path, "--set", "held_out", "--limit", "16", "--lang", "zh")
    assert all(result.ok for result in first)
    assert oracle.asked == asked > 0
    assert all(result.cached for result in second)
    assert [replace(result, cached=False) for result in second] == first
    # Metrics of the field need no further requests when every visit is right.
    assert asked <= sum(result.model_calls for result in first)
    summary = json.loads((tmp_path / "results" / "summary.json").read_text("utf-8"))
    assert (summary["steps"]["plan_em"], summary["steps"]["hallu_rate"]) == (1, 0)
    assert summary["cost"]["completion_tokens"] > 0
    assert "Plan.EM 100.0%" in capsys.readouterr().out
    assert "Avg.F1" in (tmp_path / "results" / "report.html").read_text("utf-8")


def test_a_broken_off_run_goes_on(tmp_path: Path) -> None:
    oracle = Oracle(VISITS)

    def breaks(messages: Sequence[Message]) -> str:
        if oracle.asked == 5:
            raise RuntimeError("the server goes down")
        return oracle(messages)

    plan = Plan(concurrency=1)
    with ReplyCache(tmp_path / "cache") as cache:
        with served(breaks) as url, pytest.raises(ToolweaveError):
            run_visits(VISITS, llm(url), plan=plan, model_id="oracle", cache=cache)
        with served(oracle) as url:
            results = run_visits(VISITS, llm(url), plan=plan, model_id="oracle", cache=cache)
    assert all(result.ok for result in results)
    assert oracle.asked <= sum(result.model_calls for result in results)


def test_episodes_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    write_jsonl(path, map(visit_json, [*VISITS, FOLLOW_UP]))
    read = read_visits(path)
    assert [(visit.id, visit.line, visit.expected) for visit in read] == [
        (visit.id, visit.line, visit.expected) for visit in [*VISITS, FOLLOW_UP]
    ]
    with served(Oracle(read)) as url:
        results = evaluate(url, tmp_path, "--episodes", str(path), "--no-steps")
    assert len(results) == len(read)
    assert all(result.ok for result in results)


@pytest.mark.parametrize("row", ["{}", '{"turns": []}', '{"turns": [{"steps": []}]}', '{"turns": 3}', "[]"])
def test_episodes_that_are_none_are_refused(row: str, tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    path.write_text(row + "\n")
    with pytest.raises(DataError, match="line 1"):
        read_visits(path)


def test_an_agent_plays_its_own_role_with_its_own_model(tmp_path: Path) -> None:
    config = {"name": "小助手", "description": "帮忙", "instruction": "回答问题", "language": "zh", "model": "mine"}
    builder = tmp_path / "builder_config.json"
    builder.write_text(json.dumps(config), "utf-8")
    visits = read_agent(builder).play(VISITS)
    assert {visit.episode.lang for visit in visits} == {Lang.ZH}
    with served(Oracle(visits)) as url:
        entry = {"type": "openai", "model": "oracle", "api_base": url, "generate_cfg": {"top_p": 0.9}}
        (tmp_path / "model_config.json").write_text(json.dumps({"mine": entry}))
        arguments = ("--agent", str(builder), "--set", "held_out", "--limit", "16", "--no-steps")
        results = evaluate("agent", tmp_path, *arguments)
    assert len(results) == len(visits)
    # Who it is, it says as this agent: the reference names another.
    assert all(result.ok for result in results if result.line is not Line.NO_CALL)


def test_a_live_history_is_the_models_own() -> None:
    seen: list[list[str]] = []

    class Talker(Oracle):
        def __call__(self, messages: Sequence[Message]) -> str:
            seen.append([message["content"] for message in messages[1:-1]])
            return super().__call__(messages)

    model = Talker([FOLLOW_UP])
    first, last = FOLLOW_UP.episode.turns
    result = run_visit(FOLLOW_UP, model, Plan(history=History.LIVE))
    assert result.ok
    assert len(result.calls) == 2
    assert seen[0] == []
    assert seen[-1] == [first.query, first.answer]
    # A wrong first turn makes the conversation wrong, and is what the second is asked with.
    silent = run_visit(FOLLOW_UP, ScriptedModel(["不知道。"] * 6), Plan(history=History.LIVE))
    assert "no_call" in silent.failures
    assert last.query in silent.transcript
    recorded = run_visit(FOLLOW_UP, Oracle([FOLLOW_UP]), Plan(history=History.RECORDED))
    assert len(recorded.calls) == 1


def test_simulated_tools_answer_what_was_never_recorded(tmp_path: Path) -> None:
    visit = next(visit for visit in VISITS if visit.line is Line.SEEN_TOOLS)
    call = Oracle([visit]).replies
    result = run_visit(visit, ScriptedModel([next(iter(call.values())), "好的。"]), Plan(tools=ToolMode.SIMULATED))
    assert "[simulated]" in result.transcript
    assert result.right
    with served(Oracle([visit])) as url:
        episodes = tmp_path / "one.jsonl"
        write_jsonl(episodes, [visit_json(visit)])
        arguments = ("--episodes", str(episodes), "--tools", "simulated", "--no-steps")
        (over_http,) = evaluate(url, tmp_path, *arguments)
    assert over_http.right


def test_trials_give_pass_hat_k(tmp_path: Path) -> None:
    oracle = Oracle(VISITS)
    episodes = tmp_path / "four.jsonl"
    write_jsonl(episodes, map(visit_json, VISITS[:4]))
    with served(oracle) as url:
        arguments = ("--episodes", str(episodes), "--trials", "3", "--temperature", "0.7", "--no-steps")
        results = evaluate(url, tmp_path, *arguments)
    assert [result.trial for result in results] == [0, 1, 2] * 4
    # Each trial has a seed of its own, so none is answered from another's replies.
    assert not any(result.cached for result in results)
    summary = json.loads((tmp_path / "results" / "summary.json").read_text())
    assert summary["pass^k"] == {"1": 1.0, "2": 1.0, "3": 1.0}
    with pytest.raises(ToolweaveError, match="greedy"):
        Order(plan=Plan(trials=2))


@pytest.mark.parametrize(
    ("says", "differs"),
    [
        ('{"faithful": true, "reason": "fits"}', 0),
        ('Well. {"faithful": false, "reason": "invented"}', 4),
        ("I cannot say", 4),
    ],
)
def test_a_judge_gives_a_second_opinion(says: str, differs: int, tmp_path: Path) -> None:
    episodes = tmp_path / "four.jsonl"
    write_jsonl(episodes, map(visit_json, VISITS[:4]))
    with served(Oracle(VISITS)) as url, served(lambda messages: says, "judge") as judge:
        evaluate(url, tmp_path, "--episodes", str(episodes), "--judge", judge, "--no-steps")
    opinions = json.loads((tmp_path / "results" / "summary.json").read_text("utf-8"))["judge"]
    assert opinions["model"] == f"{judge} judge"
    assert (opinions["n"], len(opinions["differs"])) == (4, differs)


@pytest.mark.parametrize("visit", challenge_visits(), ids=lambda visit: visit.id)
def test_challenges_tell_a_perfect_model_from_an_obeying_one(visit: Visit) -> None:
    assert run_visit(visit, Oracle([visit])).ok
    if visit.line is Line.IRRELEVANT:
        tool = visit.episode.tools[0].name
        eager = run_visit(visit, ScriptedModel([f"Action: {tool}\nAction Input: {{}}\n", "好的。"]))
        assert "needless_call" in eager.failures
        return
    call = next(iter(Oracle([visit]).replies.values()))
    parrot = run_visit(visit, ScriptedModel([call, visit.turn.answer + " ZX-4417"]))
    assert "obeyed_injection" in parrot.failures
    other = next(tool.name for tool in visit.episode.tools if tool.name != visit.expected[0].name)
    obeys = run_visit(visit, ScriptedModel([call, f"Action: {other}\nAction Input: {{}}\n", visit.turn.answer]))
    assert not obeys.right
    assert not obeys.ok


def test_a_server_that_is_gone_is_an_error_for_the_user(tmp_path: Path) -> None:
    files = ["--output", str(tmp_path / "r.jsonl"), "--cache", str(tmp_path / "cache")]
    with pytest.raises(SystemExit) as stop:
        cli.main(["eval", "run", "--model", "http://127.0.0.1:9/v1", *files])
    assert stop.value.code == 2
    assert not (tmp_path / "r.jsonl").exists()


def test_results_need_a_name_that_leaves_one_for_their_reports(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["eval", "run", "--model", "http://127.0.0.1:9/v1", "--output", str(tmp_path / "tuned")])
    assert stop.value.code == 2
    assert not list(tmp_path.iterdir())


def test_too_few_visits_leave_the_gate_undecided(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = [run_visit(visit, Oracle([visit])) for visit in VISITS[:3]]
    bad = [replace(good[0], right=False), *good[1:]]
    rule = Rule("better", min_gain=0, certain=True)
    ruling = decide(Evidence(bad, good), [rule]).rulings[0]
    assert ruling.verdict is Verdict.UNDECIDED
    assert "too few visits" in ruling.reason.en
    assert "访问太少" in ruling.reason.zh
    rules = tmp_path / "rules.yaml"
    rules.write_text("rules: [{name: better, metric: ok, min_gain: 0, certain: true}]")
    save_results(tmp_path / "base.jsonl", bad)
    save_results(tmp_path / "tuned.jsonl", good)
    files = [str(tmp_path / "base.jsonl"), str(tmp_path / "tuned.jsonl")]
    with pytest.raises(SystemExit) as stop:
        cli.main(["eval", "compare", *files, "--rules", str(rules), "--output", str(tmp_path), "--lang", "zh"])
    assert stop.value.code == 1
    assert "样本不足" in capsys.readouterr().out
    assert json.loads((tmp_path / "gate.json").read_text("utf-8"))["verdict"] == "undecided"
