"""What the views of the loop show and do, without a browser: traces as HTML, batch verdicts, previews, mixes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from toolweave.data.jsonl import read_samples
from toolweave.dialects import get_dialect
from toolweave.dialects.base import Prompt
from toolweave.errors import DataError, ToolweaveError
from toolweave.evals.cases import Line
from toolweave.studio.compare import Contest, HeldOut, visits_for
from toolweave.studio.compare_html import held_out_html
from toolweave.studio.mix import RecipeName, look, named_recipe, write_practice_visits
from toolweave.studio.run_html import mix_html
from toolweave.studio.text import say, table
from toolweave.studio.trace_html import left_out_name, list_label, request_html, rule_name, visit_html
from toolweave.studio.trace_tokens import tokens_html
from toolweave.traces.curate import JUDGE, flag
from toolweave.traces.export import export, preview
from toolweave.traces.review import review_all
from toolweave.traces.rules import RULES
from toolweave.traces.store import TraceStore
from toolweave.traces.trace import Exchange, Filter, ModelReply, Verdict
from toolweave.types import Lang, ToolSpec

SCHEMA = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
WEATHER = ToolSpec("amap_weather", "获取对应城市的天气数据", SCHEMA)
DIALECT = get_dialect("v06")


def text(key: str, **values: object) -> str:
    return say(key, Lang.EN, **values)


def record(store: TraceStore, query: str, reply: str, model: str = "m") -> str:
    body = {"model": model, "messages": list(DIALECT.start(Prompt(query, (WEATHER,)))), "stop": list(DIALECT.stop)}
    return store.record(Exchange(body, ModelReply(reply, finish_reason="stop"), 1.0, 0.1))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    with TraceStore(tmp_path / "traces.db", create=True) as opened:
        yield opened


@given(st.text(min_size=1, max_size=40), st.sampled_from(["<script>x</script>", "<img src=x onerror=y>", "</pre><b>"]))
def test_what_a_trace_says_is_text_and_never_markup(
    tmp_path_factory: pytest.TempPathFactory, said: str, harm: str
) -> None:
    with TraceStore(tmp_path_factory.mktemp("store") / "traces.db", create=True) as store:
        trace = record(store, said + harm, harm + said, model=harm)
        store.review(trace, Verdict.CORRECTED, harm, label=said + harm)
        found = store.trace(trace)
        for html in (visit_html(store.visit(trace), trace, text, Lang.EN), request_html(found, text)):
            names = {tag.name for tag in BeautifulSoup(html, "html.parser").find_all()}
            assert names <= {
                "div",
                "b",
                "code",
                "ol",
                "li",
                "span",
                "pre",
                "p",
                "ins",
                "del",
                "h5",
                "details",
                "summary",
            }
        assert list_label(found, text).count("\n") == 1


def test_every_rule_has_a_name_in_both_languages() -> None:
    for rule in (*RULES, JUDGE):
        assert f"traces.rule_{rule}" in table()
    assert rule_name("a rule of tomorrow", text) == "a rule of tomorrow"


def test_tokens_show_what_is_learned_and_where_it_stops(store: TraceStore, tiny_model_dir: Path) -> None:
    trace = store.trace(record(store, "朝阳区天气怎样？", "晴，12度。", model=str(tiny_model_dir)))
    page = BeautifulSoup(tokens_html(trace, text), "html.parser")
    learned, stop = page.select("pre mark")
    assert learned.text.strip() == "晴，12度。"
    assert stop.text == "<|im_end|>"
    assert "朝阳区天气怎样？" in page.select_one("pre .prompt").text


def test_a_batch_verdict_leaves_what_was_reviewed(store: TraceStore, tmp_path: Path) -> None:
    ids = [record(store, f"第{n}号气象站现在怎样？", f"{n}号站很好。") for n in range(4)]
    store.review(ids[0], Verdict.REJECTED, "me")
    assert review_all(store, Filter(), Verdict.ACCEPTED, "me") == 3
    assert review_all(store, Filter(), Verdict.ACCEPTED, "me") == 0
    assert [store.trace(trace).review.verdict for trace in ids] == [Verdict.REJECTED] + [Verdict.ACCEPTED] * 3
    held_out = ["第2号气象站现在怎样？"]
    seen = preview(store, held_out)
    written = export(store, tmp_path / "rows.jsonl", held_out, drop_held_out=True)
    assert seen == written
    assert len(list(read_samples(tmp_path / "rows.jsonl"))) == written.rows
    assert written.left_out["held out for evaluation"] >= 1
    assert flag(store).replies == 4


def test_what_an_export_leaves_out_is_said_in_the_language_of_the_page(store: TraceStore) -> None:
    rejected = record(store, "今天怎样？", "晴")
    store.review(rejected, Verdict.REJECTED, "me")
    for number in range(3):
        record(store, f"第{number}天怎样？", "晴")

    def chinese(key: str, **values: object) -> str:
        return say(key, Lang.ZH, **values)

    left = preview(store, ()).left_out
    assert {left_out_name(why, chinese): count for why, count in left.items()} == {"被拒绝": 1, "未审核": 3}
    assert left_out_name("a reason of tomorrow", chinese) == "a reason of tomorrow"


def test_the_mix_tells_what_the_run_will_learn_from(tiny_model_dir: Path, tmp_path: Path) -> None:
    practice = write_practice_visits(tmp_path, 8)
    assert write_practice_visits(tmp_path, 8) == practice
    choices = {
        "dataset": str(practice), "model": str(tiny_model_dir), "train_dataset_mix_ratio": 0.5,
        "self_cognition_sample": 3, "max_length": 100,
    }  # fmt: skip
    mix = look(named_recipe(RecipeName.QUICK, choices))
    assert mix.about_itself == 3
    assert mix.general == round(mix.own * 0.5)
    assert mix.training + mix.validation == len(list(read_samples(practice))) + mix.general + 3
    page = mix_html(mix, text)
    assert practice.name in page
    assert "100 are allowed" in page


def test_choices_go_over_the_recipe_and_unknown_ones_are_named() -> None:
    recipe = named_recipe(RecipeName.THOROUGH, {"lora_rank": 4}, "num_train_epochs: 5\nlora_rank: 16\n")
    assert (recipe.optim.num_train_epochs, recipe.lora.lora_rank, recipe.run.metric_for_best_model) == (5, 16, "visits")
    for wrong, told in (("learning_rat: 1", "learning_rate"), ("- a", "mapping"), ("a: [", "YAML")):
        with pytest.raises(ToolweaveError, match=told):
            named_recipe(RecipeName.QUICK, {}, wrong)


def test_a_comparison_that_cannot_ask_says_why(tmp_path: Path) -> None:
    def gone() -> dict[str, str]:
        raise ToolweaveError("no such model", "choose another")

    contest = HeldOut(Contest(gone, gone, visits_for(3), tmp_path / "duel", Lang.EN)).begin()
    contest.wait()
    assert not contest.running
    assert "no such model" in held_out_html(contest, text, Lang.EN)
    with pytest.raises(DataError):
        visits_for(0)
    assert {visit.line for visit in visits_for(60)} > {Line.NO_CALL}


def test_every_string_names_the_values_it_is_given() -> None:
    for key, said in table().items():
        if key.partition(".")[0] in ("traces", "train", "compare"):
            fields = [set(re.findall(r"\{(\w+)\}", said[lang.value])) for lang in Lang]
            assert fields[0] == fields[1], key
