"""Conversion of foreign data sets to samples: the requests that the app would have sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from toolweave.data import msagent
from toolweave.data.jsonl import numbered_lines, parse_line, write_jsonl
from toolweave.dialects import Dialect, get_dialect
from toolweave.errors import DataError
from toolweave.types import Episode, Json, Reply, Sample

READERS: dict[str, Callable[[Json], Episode]] = {"ms_agent": msagent.parse_row}


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row left out: its line, counted from 1, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What a conversion did, in counts."""

    rows: int
    episodes: int
    samples: int
    turns: int
    calls: int
    dropped: tuple[Dropped, ...]


def convert(
    source: str | Path, target: str | Path, *, from_: str = "ms_agent", dialect: str = "v06", strict: bool = True
) -> ConvertReport:
    """Convert a JSONL file of format `from_` to samples in a dialect.

    With `strict` the first bad row raises DataError naming file and line; without, bad rows are left
    out and listed in the report. On any error the target stays as it was. A file of which no row can be
    converted is an error either way.
    """
    if from_ not in READERS:
        raise DataError(f"unknown format {from_!r}", f"choose one of {', '.join(sorted(READERS))}")
    source, target = Path(source), Path(target)
    if source.exists() and target.exists() and source.samefile(target):
        raise DataError(f"{source} is both source and target", "write to another file")
    conversion = _Conversion(source, READERS[from_], get_dialect(dialect), strict)
    samples = write_jsonl(target, (sample.to_json() for sample in conversion.samples()))
    rows, episodes = conversion.rows, conversion.episodes
    return ConvertReport(rows, episodes, samples, conversion.turns, conversion.calls, tuple(conversion.dropped))


class _Conversion:
    """One pass over a file, counting as it goes."""

    def __init__(self, source: Path, reader: Callable[[Json], Episode], dialect: Dialect, strict: bool) -> None:
        self._source = source
        self._reader = reader
        self._dialect = dialect
        self._strict = strict
        self.rows = self.episodes = self.turns = self.calls = 0
        self.dropped: list[Dropped] = []

    def samples(self) -> Iterator[Sample]:
        """Yield the samples of all rows. Raises DataError as `convert` tells."""
        for line, raw in numbered_lines(self._source):
            self.rows += 1
            try:
                episode = self._reader(parse_line(raw))
                samples = _render(self._dialect, episode)
            except DataError as error:
                if self._strict:
                    raise DataError(f"{self._source}, line {line}: {error}") from error
                self.dropped.append(Dropped(line, str(error).splitlines()[0]))
                continue
            self.episodes += 1
            self.turns += len(episode.turns)
            self.calls += sum(len(turn.steps) for turn in episode.turns)
            yield from samples
        if not self.episodes:
            reason = f": line {self.dropped[0].line}: {self.dropped[0].reason}" if self.dropped else ", it is empty"
            raise DataError(f"{self._source} has no row that can be converted{reason}", "check the file and --from")


def _render(dialect: Dialect, episode: Episode) -> list[Sample]:
    """Render an episode. Raises DataError if a reply would not read back as what it says.

    An answer with a stop word in it is cut by the server, one that looks like a call runs as one.
    """
    samples = dialect.render(episode)
    wanted = [
        reply
        for turn in episode.turns
        for reply in (*(Reply("", (step.call,)) for step in turn.steps), Reply(turn.answer))
    ]
    for sample, reply in zip(samples, wanted, strict=True):
        if dialect.parse(sample.completion) != reply:
            raise DataError(
                f"{dialect.name} cannot say this reply: {sample.completion[:80]!r}",
                f"it must be plain text without {dialect.stop[0]!r} and without a call of its own",
            )
        try:
            "".join((*(message["content"] for message in sample.messages), sample.completion)).encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError("half a surrogate pair, which is not text", "correct the \\ud… escape") from error
    return samples
