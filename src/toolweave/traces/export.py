"""Reviewed traces as training rows: the request as it was sent, and the reply it should have got."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from toolweave.data.jsonl import write_jsonl
from toolweave.dialects import get_dialect
from toolweave.errors import DataError
from toolweave.traces.cases import Case, cases
from toolweave.traces.contamination import leaks
from toolweave.traces.neardup import NearDuplicates
from toolweave.traces.store import EVERYTHING, TraceStore
from toolweave.traces.trace import Filter, Outcome, Trace, Verdict
from toolweave.types import RAW_ROLE, Json, Message, Sample, read_message

_REVIEWED = frozenset({Verdict.ACCEPTED, Verdict.CORRECTED})
_NO_TOOL = "-"
_MESSAGE_FIELDS = frozenset(Message.__annotations__)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which traces become rows.

    Accepted and corrected ones do; `clean` adds those that nobody reviewed and no rule flagged. Of rows more similar
    than `near` (1: only equal ones; prompt apart), the first stays. `max_per_tool` and `max_per_rule` limit how many
    rows call or answer from one tool, or mend one kind of failure, drawn with `seed`.
    """

    clean: bool = False
    near: float = 0.9
    max_per_tool: int | None = None
    max_per_rule: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.near <= 1:
            raise DataError(f"near is {self.near}", "it is a share: above 0, at most 1")


@dataclass(frozen=True, slots=True)
class ExportReport:
    """How many rows were written, how many traces were left out and why, and what the rows hold."""

    rows: int
    left_out: Mapping[str, int]
    by_tool: Mapping[str, int] = field(default_factory=dict)
    by_rule: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Row:
    case: Case
    sample: Sample

    @property
    def tool(self) -> str:
        """The tool that the reply calls, or that it answers from."""
        calls = [*self.case.earlier, *self.case.calls]
        return calls[-1].name if calls else _NO_TOOL

    @property
    def rules(self) -> tuple[str, ...]:
        """The failures that this row mends."""
        corrected = self.case.trace.review.verdict is Verdict.CORRECTED
        return tuple(flag.rule for flag in self.case.trace.flags) if corrected else ()


def export(
    store: TraceStore,
    target: Path,
    held_out: Iterable[str],
    selection: Selection = Selection(),
    wanted: Filter = EVERYTHING,
    *,
    drop_held_out: bool = False,
) -> ExportReport:
    """Write the selected traces of a filter to a JSONL file of samples.

    Raises DataError, and writes nothing, when a row asks what a query of `held_out` asks, or nearly so;
    `drop_held_out` leaves such rows out instead.
    """
    rows, left_out = _chosen(store, held_out, selection, wanted, drop_held_out)
    write_jsonl(target, (row.sample.to_json() for row in rows))
    return _report(rows, left_out)


def preview(
    store: TraceStore, held_out: Iterable[str], selection: Selection = Selection(), wanted: Filter = EVERYTHING
) -> ExportReport:
    """Return what `export` would write now, leaving out what evaluation asks."""
    return _report(*_chosen(store, held_out, selection, wanted, drop_held_out=True))


def to_sample(trace: Trace) -> Sample:
    """Return the row of a trace, with its lineage in `meta`. Raises DataError for what no sample can hold.

    Native tool calling keeps its tools, and the calls in its messages; the prompt of a raw completion is the one
    message of its sample.
    """
    messages = tuple(map(_message, trace.messages)) if trace.messages else (_raw_prompt(trace),)
    reply = trace.review.label if trace.review.label is not None else trace.reply.written
    meta = lineage(trace)
    if _is_native(trace):
        meta["dialect"] = get_dialect("native").name
    completion = get_dialect(meta["dialect"]).completed(reply) if meta["dialect"] else reply
    return Sample(messages, completion, trace.stop, trace.tools, meta)


def _message(sent: object) -> Message:
    """Return a message as it was sent. Raises DataError if a sample's messages cannot hold all of it."""
    told = {key: value for key, value in sent.items() if value is not None} if isinstance(sent, Mapping) else {}
    odd = told.keys() - _MESSAGE_FIELDS or "role" not in told
    if odd or not isinstance(told.get("content", ""), str) or not isinstance(told.get("tool_calls", []), list):
        raise DataError("messages hold more than role, text and tool calls")
    return read_message({"content": "", **told})


def _raw_prompt(trace: Trace) -> Message:
    if not trace.prompt or trace.exchange.request.get("echo") or trace.exchange.request.get("suffix"):
        raise DataError("a raw completion that is not one prompt and its reply")
    return Message(role=RAW_ROLE, content=trace.prompt)


def _is_native(trace: Trace) -> bool:
    """Tell whether tools were offered, called or answered in OpenAI's own form. Raises DataError for odd ones."""
    request = trace.exchange.request
    offered = request.get("tools") or []
    if request.get("tool_choice") not in (None, "auto"):
        raise DataError("the request forces or forbids calls, which no prompt tells")
    if request.get("functions") or not isinstance(offered, list) or len(offered) > len(trace.tools):
        raise DataError("the request offers more than function tools")
    called = any(message.get("tool_calls") or message.get("tool_call_id") for message in trace.messages)
    return bool(offered or trace.reply.tool_calls or called)


def lineage(trace: Trace) -> Json:
    """Return where a row comes from: trace, rule results, reviewer and edit."""
    review = trace.review
    return {
        "kind": "trace",
        "trace": trace.id,
        "visit": trace.visit,
        "turn": trace.turn,
        "agent": trace.agent,
        "dialect": trace.dialect,
        "model": trace.model,
        "recorded": datetime.fromtimestamp(trace.exchange.started, UTC).isoformat(timespec="seconds"),
        "flags": [{"rule": flag.rule, "why": flag.why} for flag in trace.flags],
        "feedback": [{"kind": item.kind.value, "text": item.text} for item in trace.feedback],
        "verdict": review.verdict.value,
        "reviewer": review.reviewer,
        "edited_from": trace.reply.written if review.label is not None else None,
    }


def _chosen(
    store: TraceStore, held_out: Iterable[str], selection: Selection, wanted: Filter, drop_held_out: bool
) -> tuple[list[_Row], Counter[str]]:
    """Return the rows of a selection, and how many traces were left out for what."""
    left_out: Counter[str] = Counter()
    rows = list(_distinct(_rows(store, selection, wanted, left_out), selection.near, left_out))
    rows = _without_held_out(rows, held_out, drop_held_out, left_out)
    rows = _at_most(rows, selection.max_per_tool, lambda row: (row.tool,), selection.seed, left_out)
    return _at_most(rows, selection.max_per_rule, lambda row: row.rules, selection.seed, left_out), left_out


def _report(rows: Sequence[_Row], left_out: Counter[str]) -> ExportReport:
    by_rule = Counter(rule for row in rows for rule in row.rules)
    return ExportReport(len(rows), left_out, Counter(row.tool for row in rows), by_rule)


def _rows(store: TraceStore, selection: Selection, wanted: Filter, left_out: Counter[str]) -> Iterator[_Row]:
    chosen = {trace.id for trace in store.traces(wanted)}
    visits = dict.fromkeys(trace.visit for trace in store.traces(wanted))
    for visit in visits:
        for case in cases(store.visit(visit)):
            if case.trace.id not in chosen:
                continue
            reason = _unfit(case.trace, selection)
            if not reason:
                try:
                    yield _Row(case, to_sample(case.trace))
                except DataError as error:
                    reason = str(error)
            if reason:
                left_out[reason] += 1


def _unfit(trace: Trace, selection: Selection) -> str:
    verdict = trace.review.verdict
    if verdict is Verdict.REJECTED:
        return "rejected"
    if verdict not in _REVIEWED and not selection.clean:
        return "not reviewed"
    if verdict not in _REVIEWED and trace.flags:
        return "flagged and not reviewed"
    if trace.exchange.outcome is not Outcome.ANSWERED and verdict is not Verdict.CORRECTED:
        return f"not answered ({trace.exchange.outcome.value})"
    return ""


def _distinct(rows: Iterable[_Row], near: float, left_out: Counter[str]) -> Iterator[_Row]:
    """Leave out what nearly repeats a row of the same agent: the last message and the reply, which differ by visit."""
    seen: dict[str, NearDuplicates] = defaultdict(lambda: NearDuplicates(near))
    for row in rows:
        head = "\0".join(message["content"] for message in row.sample.messages[:-1])
        text = row.sample.messages[-1]["content"] + "\0" + row.sample.completion
        known = seen[head]
        if known.find(text) is not None:
            left_out["near-duplicate"] += 1
            continue
        known.add(row.case.trace.id, text)
        yield row


def _without_held_out(rows: list[_Row], held_out: Iterable[str], drop: bool, left_out: Counter[str]) -> list[_Row]:
    found = leaks({row.case.trace.id: row.case.trace.query for row in rows}, held_out)
    if found and not drop:
        first = found[0]
        raise DataError(
            f"{len(found)} of {len(rows)} rows ask what evaluation asks: trace {first.key} asks {first.query!r}, "
            f"a held-out visit {first.held_out!r}",
            "leave them out with --drop_held_out, or reject them",
        )
    leaked = {leak.key for leak in found}
    left_out.update({"held out for evaluation": len(leaked)} if leaked else {})
    return [row for row in rows if row.case.trace.id not in leaked]


def _at_most(
    rows: list[_Row], limit: int | None, groups: Callable[[_Row], tuple[str, ...]], seed: int, left_out: Counter[str]
) -> list[_Row]:
    """Draw rows so that no group has more than `limit`; their order stays."""
    if limit is None:
        return rows
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    taken: Counter[str] = Counter()
    kept = set()
    for index in order:
        of = groups(rows[index])
        if all(taken[group] < limit for group in of):
            taken.update(of)
            kept.add(index)
    if len(kept) < len(rows):
        left_out["over the limit of its group"] += len(rows) - len(kept)
    return [row for index, row in enumerate(rows) if index in kept]
