"""Captured requests asked of another model: what is the same, what fails, and what a reviewer gets to see."""

from __future__ import annotations

from pathlib import Path

import pytest

from oracle import Oracle, served
from toolweave import cli
from toolweave.data.jsonl import read_jsonl
from toolweave.evals.cache import ReplyCache, Source
from toolweave.evals.cases import Line, held_out_visits
from toolweave.evals.replay import REPLAY, Outcome, count_outcomes, replay
from toolweave.evals.visit import run_visit
from toolweave.models.interface import Model
from toolweave.models.scripted import ScriptedModel
from toolweave.traces.recording import RecordingModel
from toolweave.traces.review import queue
from toolweave.traces.store import TraceStore
from toolweave.traces.trace import Exchange, Filter, ModelReply, Verdict

VISITS = [visit for visit in held_out_visits() if visit.line is Line.SEEN_TOOLS][:6]
DENIAL = "抱歉，我无法获取实时数据。"


def capture(path: Path, model: Model) -> TraceStore:
    """A store of the visits by a model."""
    store = TraceStore(path, create=True)
    recording = RecordingModel(model, store)
    for visit in VISITS:
        run_visit(visit, recording)
    recording.recorder.close()
    return store


def test_the_same_model_says_the_same(tmp_path: Path) -> None:
    with capture(tmp_path / "traces.db", Oracle(VISITS)) as store, ReplyCache(None) as cache:
        replayed = replay(store, Source(Oracle(VISITS), "", {}), cache)
    assert len(replayed) == 2 * len(VISITS)
    assert {item.outcome for item in replayed} == {Outcome.SAME}


def test_failures_become_review_candidates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, output = tmp_path / "traces.db", tmp_path / "replay.jsonl"
    capture(path, Oracle(VISITS)).close()
    with served(Oracle([], otherwise=DENIAL), "worse") as url, pytest.raises(SystemExit) as stop:
        cli.main(
            ["eval", "replay", "--model", url, "--store", str(path), "--output", str(output), "--flag",
             "--cache", str(tmp_path / "cache"), "--lang", "zh"]
        )  # fmt: skip
    assert not stop.value.code
    assert "失败" in capsys.readouterr().out
    rows = [row for _, row in read_jsonl(output)]
    failed = [row for row in rows if row["outcome"] == "failed"]
    assert len(failed) == len(rows) == 2 * len(VISITS)
    assert all(row["replayed"] == DENIAL and row["why"] for row in failed)
    report = (tmp_path / "replay" / "report.html").read_text("utf-8")
    assert "<ins>" in report
    with TraceStore(path) as store:
        candidates = queue(store, Filter(rule=REPLAY))
        assert len(candidates) == len(failed)
        assert {store.trace(id_).model for id_ in candidates} == {"worse"}
        # What a replay has stored is not replayed itself.
        with ReplyCache(None) as cache:
            assert len(replay(store, Source(Oracle(VISITS), "", {}), cache)) == len(rows)


def test_mended_and_accepted_replies(tmp_path: Path) -> None:
    with capture(tmp_path / "traces.db", Oracle([], otherwise=DENIAL)) as store, ReplyCache(None) as cache:
        counts = count_outcomes(replay(store, Source(Oracle(VISITS), "", {}), cache))
        assert counts[Outcome.MENDED] == len(VISITS)
        first = next(iter(store.traces()))
        store.review(first.id, Verdict.CORRECTED, "tester", Oracle(VISITS)(first.messages))
        again = replay(store, Source(Oracle(VISITS), "", {}), cache, Filter(ids=(first.id,)))
        assert [item.outcome for item in again] == [Outcome.SAME]
        store.review(first.id, Verdict.ACCEPTED, "tester")
        again = replay(store, Source(Oracle(VISITS), "", {}), cache, Filter(ids=(first.id,)))
        assert [item.why[0].rule for item in again] == ["calls"]


def test_native_calls_are_replayed_natively(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "tide", "parameters": {"type": "object", "properties": {}}}}
    call = {"id": "1", "type": "function", "function": {"name": "tide", "arguments": "{}"}}
    request = {"model": "old", "messages": [{"role": "user", "content": "Tide?"}], "tools": [tool]}
    exchange = Exchange(request, ModelReply("", (call,), "tool_calls"), 1.0, 0.1)
    with TraceStore(tmp_path / "traces.db", create=True) as store, ReplyCache(None) as cache:
        store.record(exchange)
        same = ScriptedModel(['<tool_call>\n{"name": "tide", "arguments": {}}\n</tool_call>'])
        assert [item.outcome for item in replay(store, Source(same, "same", {}), cache)] == [Outcome.SAME]
        assert [spec.name for spec in same.requests[0].tools] == ["tide"]
        other = ScriptedModel(['<tool_call>\n{"name": "moon", "arguments": {}}\n</tool_call>'])
        (item,) = replay(store, Source(other, "other", {}), cache)
        assert (item.outcome, item.why[0].rule) == (Outcome.FAILED, "unknown_tool")
