"""What is learned: rows fitted to the length, wrong masks refused, and all of it visible."""

from __future__ import annotations

import json
import re
from collections import Counter
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tiny import byte_tokenizer
from toolweave import cli
from toolweave.data.load import VISIT
from toolweave.data.strategy import Strategy
from toolweave.data.synthesize import held_out_episodes, selection_episodes
from toolweave.dialects import get_dialect
from toolweave.errors import DataError
from toolweave.models.template import ChatTemplate
from toolweave.training.audit import print_audit, write_audit
from toolweave.training.prefix_tree import Encoded
from toolweave.training.recipe import DataPart
from toolweave.training.rows import Rows, mask_fault, prepare
from toolweave.training.sources import gather
from toolweave.types import Episode, Message, Sample, Step, ToolCall, ToolSpec, Turn

TEMPLATE = ChatTemplate(byte_tokenizer())
LOOK = ToolSpec("look", "find", {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]})
LIMIT = 10_000


def sample(completion: str = "Hello!", **meta: object) -> Sample:
    return Sample((Message(role="user", content="hi"),), completion, ("Observation:",), meta=meta)


def visit(dialect: str, *observations: str) -> Sample:
    """Return the closing answer of a visit that saw these observations."""
    steps = tuple(Step(ToolCall("look", {"q": str(number)}), text) for number, text in enumerate(observations))
    return get_dialect(dialect).render(Episode((LOOK,), (Turn("search", steps, "done"),)))[-1]


def size(row: Sample) -> int:
    (kept,) = prepare([row], TEMPLATE, LIMIT, Strategy.ERROR).kept
    return len(kept.encoded.ids)


@pytest.mark.parametrize("dialect", ["v06", "v07", "hermes", "react"])
@settings(max_examples=15)
@given(lengths=st.lists(st.integers(1, 900), min_size=2, max_size=4), room=st.floats(0.3, 1.1))
def test_long_rows_are_fitted_or_dropped_never_cut(dialect: str, lengths: list[int], room: float) -> None:
    texts = [f"{number}" * length for number, length in enumerate(lengths)]
    row = visit(dialect, *texts)
    short = visit(dialect, *(text[:40] for text in texts[:-1]), texts[-1])
    limit = round(size(row) * room)
    rows = prepare([row, sample()], TEMPLATE, limit, Strategy.DISCARD)
    assert all(len(kept.encoded.ids) <= limit for kept in rows.kept)
    if len(rows.kept) == 1:
        assert "over --max_length" in rows.dropped[0].reason
        assert limit < size(short) + 40 * len(texts)
        return
    fitted = rows.kept[0].sample
    assert (fitted is row) == (size(row) <= limit) == (not rows.shortened)
    assert fitted.messages[0] == row.messages[0]
    assert fitted.completion == row.completion
    said, before = (json.dumps(one.messages, ensure_ascii=False) for one in (fitted, row))
    assert texts[-1] in said
    # What is no observation is as it was: every call still stands before its result.
    digits = re.compile("|".join(f"{n}{{20,}}(?: … {n}+)?" for n in range(len(texts))))
    assert digits.sub("", said) == digits.sub("", before)
    for number in range(len(texts)):
        assert said.index(f'{{\\"q\\": \\"{number}\\"}}') >= 0


def test_observations_of_tool_messages_are_shortened_too() -> None:
    messages = (
        Message(role="user", content="hi"), Message(role="tool", content="a" * 500), Message(role="tool", content="b"),
    )  # fmt: skip
    (kept,) = prepare([Sample(messages, "done")], TEMPLATE, 300, Strategy.ERROR).kept
    assert re.fullmatch("a+ … a+", kept.sample.messages[1]["content"])


@pytest.mark.parametrize(
    ("row", "encoded", "fault"),
    [
        (sample(), Encoded((1, 2), 2), "no label"),
        (sample(), Encoded((1, 2, 3), 1), "the stop token of the reply is not trained"),
        (sample(""), None, "no label but the stop token"),
        (sample("Action: look\nAction Input: {}\nObservation: 7 degrees"), None, "label on an observation"),
        (sample("I saw \nObservation: <result>7</result>"), None, "label on an observation"),
        (visit("native", "7"), None, "chat template to tell"),
        (visit("v06", "7"), None, None),
        (sample("Action: look\nAction Input: {}\nObservation:"), None, None),
    ],
)
def test_wrong_masks_are_refused(row: Sample, encoded: Encoded | None, fault: str | None) -> None:
    if encoded is None:
        prompt = TEMPLATE.prompt_ids(row.messages)
        encoded = Encoded((*prompt, *TEMPLATE.completion_ids(row.completion)), len(prompt))
    found = mask_fault(row, encoded, TEMPLATE)
    assert found is None if fault is None else fault in str(found)


def test_the_strategy_decides_and_the_report_names_rows(tmp_path: Path) -> None:
    bad = sample("", id="bad")
    for strategy in (Strategy.ERROR, Strategy.NONE):
        with pytest.raises(DataError, match="bad cannot be learned: no label"):
            prepare([sample(), bad], TEMPLATE, LIMIT, strategy)
    with pytest.raises(DataError, match="all were dropped"):
        prepare([bad], TEMPLATE, LIMIT, Strategy.DISCARD)
    rows = prepare([sample(), bad, sample("x" * LIMIT, **{VISIT: "a.jsonl:3"})], TEMPLATE, LIMIT, Strategy.WARNING)
    rows.save_report(tmp_path / "dropped.jsonl")
    report = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text("utf-8").splitlines()]
    assert [(line["id"], line["action"]) for line in report] == [("bad", "dropped"), ("a.jsonl:3", "dropped")]
    assert "over --max_length" in report[1]["reason"]
    assert rows.summary().startswith("1 rows, 0 shortened, 2 dropped; 1 × no label")


def test_labels_are_coloured_in_terminal_and_page(tmp_path: Path) -> None:
    rows = prepare([sample("<b>yes</b>", id="row <1>")], TEMPLATE, LIMIT, Strategy.ERROR)
    terminal = Console(file=StringIO(), force_terminal=True, color_system="standard", width=200)
    print_audit(rows.kept, rows, TEMPLATE, terminal)
    text = terminal.file.getvalue()
    assert "\x1b[1;32m<b>yes</b>\x1b[0m" in text
    assert re.search(r"\x1b\[[\d;]*33m<\|im_end\|>", text)
    write_audit(rows.kept, rows, TEMPLATE, tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text("utf-8")
    assert '<mark>&lt;b&gt;yes&lt;/b&gt;</mark><mark class="stop">&lt;|im_end|&gt;</mark>' in page
    assert "row &lt;1&gt;" in page
    assert "<b>" not in page


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


def plain(question: str, answer: str = "yes") -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}], "completion": answer}


def test_audit_shows_and_trains_nothing(
    tiny_model_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "rows.jsonl", *(plain(f"q{n}") for n in range(3)), plain("empty", " "), {"messages": 1})
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        cli.main(["sft", "--audit", "--dataset", data, "--model", str(tiny_model_dir), "--output_dir", str(out)])
    assert stop.value.code in (0, None)
    said = capsys.readouterr().out
    assert "<|im_start|>user" in said
    assert f"dropped: {data}:4" in said
    assert f"dropped: {data}:5" in said
    assert [path.name for path in out.iterdir()] == ["audit.html"]


def test_every_format_is_read_and_visits_are_held_back_whole(tmp_path: Path) -> None:
    function = {"name": "look", "arguments": '{"q": "a"}'}
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"find {number}"},
                {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": function}]},
                {"role": "tool", "content": "found", "tool_call_id": "1"},
                {"role": "assistant", "content": "It is there."},
            ],
            "tools": [LOOK.openai()],
        }
        for number in range(10)
    ]
    broken = {**rows[0], "tools": []}
    openai = write(tmp_path / "openai.jsonl", *rows, broken)
    alpaca = write(
        tmp_path / "alpaca.jsonl", {"instruction": "say", "output": "yes"}, {"instruction": "a", "output": "b"}
    )
    data = DataPart(dataset=(openai, alpaca), dataset_test_ratio=0.2)
    sources = gather(data, 0)
    assert Counter(row.meta[VISIT].partition(":")[0] for row in sources.train) == {
        "openai.jsonl": 16,
        "alpaca.jsonl": 1,
    }
    assert len(sources.validation) == 5
    assert not {row.meta[VISIT] for row in sources.train} & {row.meta[VISIT] for row in sources.validation}
    assert [dropped.id for dropped in sources.dropped] == [f"{openai}:11"]
    assert all(row.meta["dialect"] == "agentfabric-v06" for row in sources.train)
    with pytest.raises(DataError, match="line 11"):
        gather(data.model_copy(update={"check_dataset_strategy": Strategy.ERROR}), 0)
    with pytest.raises(DataError, match="no such file"):
        gather(DataPart(dataset=(str(tmp_path / "none.jsonl"),)), 0)


def test_general_chat_and_persona_are_mixed_in(tmp_path: Path) -> None:
    data = write(tmp_path / "rows.jsonl", *(plain(f"q{n}") for n in range(20)))
    chat = write(tmp_path / "chat.jsonl", *(plain(f"chat{n}") for n in range(12)))
    part = DataPart(
        dataset=(data,), dataset_test_ratio=0, train_dataset_sample=8, train_dataset_mix_ratio=1.5, mix_dataset=(chat,),
        self_cognition_sample=40, model_name=("织布", "Weaver"), model_author=("我们", "Us"),
    )  # fmt: skip
    rows = gather(part, 0).train
    assert rows == gather(part, 0).train
    kinds = Counter(str(row.meta[VISIT]).partition(":")[0] for row in rows)
    assert kinds == {"rows.jsonl": 8, "chat.jsonl": 12, "self-cognition": 40}
    about = [row for row in rows if row.meta.get("kind") == "self_cognition"]
    for row in about:
        other = ("Weaver", "Us") if row.meta["lang"] == "zh" else ("织布", "我们")
        assert not any(name in row.completion for name in other)
    assert {name for name in ("织布", "我们", "Weaver", "Us") if any(name in row.completion for row in about)} == {
        "织布", "我们", "Weaver", "Us",
    }  # fmt: skip
    with pytest.raises(DataError, match="needs 16 general samples, and there are 12"):
        gather(part.model_copy(update={"train_dataset_mix_ratio": 2.0}), 0)


def test_checkpoints_are_chosen_by_visits_that_no_report_counts() -> None:
    chosen, reported = selection_episodes(200), held_out_episodes()
    queries = {turn.query for episode in reported for turn in episode.turns}
    assert not queries & {turn.query for episode in chosen for turn in episode.turns}
    assert len({(episode.meta["agent"], episode.lang) for episode in chosen[:16]}) == 16
    assert len({episode.meta["kind"] for episode in chosen[:60]}) == 6


def test_nothing_to_report_is_an_empty_file(tmp_path: Path) -> None:
    Rows(()).save_report(tmp_path / "dropped.jsonl")
    assert (tmp_path / "dropped.jsonl").read_text("utf-8") == ""
