"""From samples to rows that may be learned: fitted to the length, their loss mask checked.

Nothing is cut silently. A row over the limit gets its old observations shortened, oldest detail first;
schemas, calls, the newest observation and the reply stay whole. What still does not fit, or has a
wrong mask, is dropped, and every drop has a reason.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from toolweave.data.load import VISIT
from toolweave.data.strategy import Strategy
from toolweave.dialects import ToolsIn, dialect_of, get_dialect
from toolweave.errors import DataError, ToolweaveError
from toolweave.models.template import ChatTemplate
from toolweave.training.batching import encode
from toolweave.training.prefix_tree import Encoded
from toolweave.types import Message, Sample

_NO_LIMIT = 2**31
_OBSERVATION_CHARS = (1600, 800, 400, 200, 100, 50)
_GAP = " … "
_SHOWN = 20
_DEFAULT_DIALECT = "v06"


@dataclass(frozen=True, slots=True)
class Row:
    """One sample that may be learned, and its tokens."""

    sample: Sample
    encoded: Encoded


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is not learned, and why."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Rows:
    """What is learned, which of it had observations shortened, and what was dropped."""

    kept: tuple[Row, ...]
    shortened: tuple[str, ...] = ()
    dropped: tuple[Dropped, ...] = ()

    @property
    def encoded(self) -> list[Encoded]:
        """The tokens of all rows."""
        return [row.encoded for row in self.kept]

    def summary(self) -> str:
        """Return one line of counts."""
        reasons = Counter(re.sub(r"\d+", "N", dropped.reason) for dropped in self.dropped)
        told = "".join(f"; {count} × {reason}" for reason, count in reasons.most_common())
        return f"{len(self.kept)} rows, {len(self.shortened)} shortened, {len(self.dropped)} dropped{told}"

    def show_dropped(self, console: Console) -> None:
        """Name the dropped rows, at most 20 of them."""
        for dropped in self.dropped[:_SHOWN]:
            console.print(f"dropped: {dropped.id}: {dropped.reason}", highlight=False, markup=False, style="red")
        if len(self.dropped) > _SHOWN:
            console.print(f"and {len(self.dropped) - _SHOWN} more", style="red")

    def save_report(self, path: Path) -> None:
        """Write one JSON line for each row that was shortened or dropped."""
        lines = [{"id": name, "action": "shortened"} for name in self.shortened]
        lines += [{"id": dropped.id, "action": "dropped", "reason": dropped.reason} for dropped in self.dropped]
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")


def row_id(sample: Sample) -> str:
    """Return what the data calls this sample: its id, else file and line, and the turn of the visit."""
    name = str(sample.meta.get("id") or sample.meta.get(VISIT) or "row without a name")
    return f"{name} turn {sample.meta['turn']}" if "turn" in sample.meta else name


def prepare(samples: Sequence[Sample], template: ChatTemplate, max_length: int, strategy: Strategy) -> Rows:
    """Encode, fit and check samples.

    Raises DataError for a row that cannot be learned when `strategy` is error or none, or when no row is left.
    """
    kept: list[Row] = []
    shortened: list[str] = []
    dropped: list[Dropped] = []
    for sample, first in zip(samples, _encode_all(samples, template), strict=True):
        fitted, encoded = sample, first
        if isinstance(encoded, Encoded) and len(encoded.ids) > max_length:
            fitted, encoded = _fit(sample, encoded, template, max_length)
        reason = encoded if isinstance(encoded, str) else mask_fault(fitted, encoded, template)
        if reason is None and isinstance(encoded, Encoded):
            kept.append(Row(fitted, encoded))
            if fitted is not sample:
                shortened.append(row_id(sample))
        elif strategy in (Strategy.ERROR, Strategy.NONE):
            raise DataError(
                f"{row_id(sample)} cannot be learned: {reason}", "--check_dataset_strategy warning drops it"
            )
        else:
            dropped.append(Dropped(row_id(sample), str(reason)))
    if samples and not kept:
        raise DataError(f"no row to train on, all were dropped: {dropped[0].reason}", "see the data, or --max_length")
    return Rows(tuple(kept), tuple(shortened), tuple(dropped))


def mask_fault(sample: Sample, encoded: Encoded, template: ChatTemplate) -> str | None:
    """Return why a row must not be learned: its labels are not just the reply and its stop token, or tools unseen."""
    dialect = dialect_of(sample)
    if dialect is not None and dialect.tools_in is ToolsIn.REQUEST and sample.tools and not template.takes_tools:
        return f"the tools of {dialect.name} are for the chat template to tell, and this model's does not"
    labels = encoded.ids[encoded.prompt :]
    if not labels or labels[-1] != template.end_id:
        return "the stop token of the reply is not trained" if labels else "no label"
    text = str(template.tokenizer.decode(list(labels[:-1])))
    if not text.strip():
        return "no label but the stop token"
    # A call ends with the stop word itself; what a server would have cut off after it is not the model's to say.
    ends = [at + len(word) for word in sample.stop if (at := text.find(word)) >= 0]
    if ends and text[min(ends) :].strip():
        return "a label on an observation: the reply goes on after its stop word"
    before, _ = _frame(sample)
    if before.strip() and before.strip() in text:
        return "a label on an observation"
    return None


def _encode_all(samples: Sequence[Sample], template: ChatTemplate) -> list[Encoded | str]:
    """Return the tokens of each sample, or why it has none."""
    if not samples:
        return []
    try:
        return list(encode(samples, template, _NO_LIMIT).samples)
    except ToolweaveError:
        if len(samples) > 1:
            return [one for sample in samples for one in _encode_all([sample], template)]
        return [_why(samples[0], template)]


def _why(sample: Sample, template: ChatTemplate) -> str:
    try:
        encode([sample], template, _NO_LIMIT)
    except ToolweaveError as error:
        return str(error).splitlines()[0]
    raise AssertionError("unreachable")


def _fit(sample: Sample, encoded: Encoded, template: ChatTemplate, max_length: int) -> tuple[Sample, Encoded | str]:
    """Shorten old observations as little as makes the sample fit; return it with its tokens, or why it cannot fit."""
    too_long = f"{len(encoded.ids)} tokens, over --max_length {max_length}"
    for limit in _OBSERVATION_CHARS:
        shorter = shorten_observations(sample, limit)
        if shorter is sample:
            continue
        tried = encode([shorter], template, _NO_LIMIT).samples[0]
        if len(tried.ids) <= max_length:
            return shorter, tried
    return sample, too_long


def shorten_observations(sample: Sample, limit: int) -> Sample:
    """Return the sample with all observations but the newest cut to about `limit` characters, head and tail kept.

    Calls, schemas and every pair of a call and its (shorter) result stay. Returns `sample` itself
    when there is nothing to cut.
    """
    before, after = _frame(sample)
    # An observation that is a message of its own has no line breaks around it, and may end with the message.
    end = re.escape(after.strip()) or r"\Z"
    framed = re.compile(f"{re.escape(before.strip())}(.*?){end}", re.DOTALL) if before.strip() else None
    spans: list[tuple[int, int, int]] = []
    for number, message in enumerate(sample.messages):
        if message["role"] == "tool":
            spans.append((number, 0, len(message["content"])))
        elif message["role"] != "system" and framed:
            spans += [(number, *match.span(1)) for match in framed.finditer(message["content"])]
    cuts = [span for span in spans[:-1] if span[2] - span[1] > limit]
    if not cuts:
        return sample
    messages: list[Message] = [message.copy() for message in sample.messages]
    for number, start, stop in reversed(cuts):
        text = messages[number]["content"]
        head, tail = (limit + 1) // 2, limit // 2
        messages[number]["content"] = text[: start + head] + _GAP + text[stop - tail :]
    return replace(sample, messages=tuple(messages))


def _frame(sample: Sample) -> tuple[str, str]:
    """Return what the sample's dialect writes before and after an observation inside a message."""
    dialect, mark = dialect_of(sample) or get_dialect(_DEFAULT_DIALECT), "\0"
    before, found, after = dialect.observation_text(mark).partition(mark)
    return (before, after) if found else ("", "")
