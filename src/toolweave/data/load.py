"""Any data set to samples: sample files, every format with a reader, folders and hub ids.

Training, `toolweave data convert`, `check` and `mix` all read data through here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from toolweave.data.chat import HISTORY, OPEN, PREFACES
from toolweave.data.formats import SAMPLES, get_format
from toolweave.data.problems import Failure, RowError, failure_of
from toolweave.data.sources import Read, Source, open_source
from toolweave.data.strategy import Strategy
from toolweave.data.validate import check_episode, check_sample
from toolweave.dialects import Dialect, get_dialect
from toolweave.errors import DataError
from toolweave.types import Episode, Json, Reply, Sample

VISIT = "visit"
"""Key of `Sample.meta`: file and line of the row that the sample comes from; siblings share it."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row left out: its line, counted from 1, and why. `id` is the row's own, if it has one."""

    line: int
    reason: str
    failure: Failure = Failure.UNREADABLE
    id: str = ""
    file: str = ""
    tool: str = ""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of the rows, in counts. `prefaces` are texts before a call that no request can hold."""

    format: str
    rows: int
    episodes: int
    samples: int
    turns: int
    calls: int
    prefaces: int = 0
    dropped: tuple[Dropped, ...] = ()
    skipped: tuple[Path, ...] = ()

    @property
    def reasons(self) -> dict[Failure, int]:
        """How many rows were left out for each kind of failure, the most frequent first."""
        return dict(Counter(dropped.failure for dropped in self.dropped).most_common())

    def summary(self) -> str:
        """Return the counts as one sentence."""
        left_out = "".join(f", {count} {failure}" for failure, count in self.reasons.items())
        return (
            f"{self.samples} samples with {self.calls} calls and {self.turns} turns, from {self.episodes} of "
            f"{self.rows} rows, {len(self.dropped)} left out{left_out.replace(', ', ': ', 1)}"
        )


@dataclass(frozen=True, slots=True)
class LoadedData:
    """The samples of a data set, and what became of its rows."""

    samples: tuple[Sample, ...]
    report: LoadReport


def load_samples(
    source: str | Path, *, format: str | None = None, dialect: str = "v06", strategy: Strategy = Strategy.WARNING
) -> LoadedData:
    """Load all samples of a file, folder or hub id.

    `format` is detected unless given. `dialect` is the prompt format to render episodes in; sample files
    stay as they are. Raises DataError if nothing can be loaded, and with `Strategy.ERROR` for the first
    bad row.
    """
    loading = Loading(source, format=format, dialect=dialect, strategy=strategy)
    samples = tuple(loading.samples())
    return LoadedData(samples, loading.report())


class Loading:
    """One pass over a data set, counting as it goes: `samples` streams, `report` tells what came of it."""

    def __init__(
        self,
        source: str | Path,
        *,
        format: str | None = None,
        dialect: str = "v06",
        strategy: Strategy = Strategy.WARNING,
    ) -> None:
        self._dialect = get_dialect(dialect)
        self._source: Source = open_source(source, format)
        self._strategy = strategy
        self._name = str(source)
        self._rows = self._episodes = self._samples = self._turns = self._calls = self._prefaces = 0
        self._dropped: list[Dropped] = []

    def samples(self) -> Iterator[Sample]:
        """Yield the samples of all rows. Raises DataError as `load_samples` tells."""
        for row in self._source.rows():
            self._rows += _count(row)
            try:
                if isinstance(row.content, DataError):
                    raise row.content
                samples = self._read(row, row.content)
            except DataError as error:
                if self._strategy is Strategy.ERROR:
                    raise DataError(f"{row.file}, line {row.line}: {error}") from error
                self._drop(row, error)
                continue
            self._episodes += 1
            self._samples += len(samples)
            yield from samples
        if not self._episodes:
            first = self._dropped[0] if self._dropped else None
            reason = f": line {first.line}: {first.reason}" if first else ", it is empty"
            raise DataError(f"{self._name} has no row that can be converted{reason}", "check the file and --from")

    def report(self) -> LoadReport:
        """Return the counts so far."""
        return LoadReport(
            self._source.format,
            self._rows,
            self._episodes,
            self._samples,
            self._turns,
            self._calls,
            self._prefaces,
            tuple(self._dropped),
            self._source.skipped,
        )

    def _read(self, row: Read, content: Json) -> list[Sample]:
        where = {VISIT: f"{row.file.name}:{row.line}"}
        if self._source.format == SAMPLES:
            return [self._sample(content, where)]
        episode = get_format(self._source.format).read(content)
        if self._strategy is not Strategy.NONE:
            check_episode(episode)
        samples = render(self._dialect, episode, where)
        self._turns += len(episode.turns)
        self._calls += sum(len(turn.steps) for turn in episode.turns)
        self._prefaces += episode.meta.get(PREFACES, 0)
        return samples

    def _sample(self, content: Json, where: Json) -> Sample:
        sample = parse_sample(content)
        if self._strategy is not Strategy.NONE:
            check_sample(sample)
        self._turns += 1
        return Sample(sample.messages, sample.completion, sample.stop, sample.tools, {**where, **sample.meta})

    def _drop(self, row: Read, error: DataError) -> None:
        tool = error.tool if isinstance(error, RowError) else ""
        content = row.content if isinstance(row.content, dict) else {}
        reason = str(error).splitlines()[0]
        self._dropped.append(
            Dropped(row.line, reason, failure_of(error), str(content.get("id") or ""), str(row.file), tool)
        )


def parse_sample(content: Json) -> Sample:
    """Read the JSONL form of a sample. Raises RowError that says what is wrong."""
    try:
        return Sample.from_json(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise RowError(
            f"not a sample: {reason}",
            "samples have messages, stop, completion and tools; other formats go through toolweave data convert",
        ) from error


def render(dialect: Dialect, episode: Episode, extra: Json | None = None) -> list[Sample]:
    """Render the samples of an episode that have a label; `extra` is added to their meta.

    Raises RowError if a reply would not read back as what it says: an answer with a stop word in it is
    cut by the server, one that looks like a call runs as one.
    """
    unlabelled, history = episode.meta.get(OPEN, 0), episode.meta.get(HISTORY, 0)
    samples = dialect.render(replace(episode, meta=episode.meta | (extra or {})))
    wanted = [
        reply
        for turn in episode.turns
        for reply in (*(Reply("", (step.call,)) for step in turn.steps), Reply(turn.answer))
    ]
    kept: list[Sample] = []
    for number, (sample, reply) in enumerate(zip(samples, wanted, strict=True)):
        if sample.meta["turn"] < history or number >= len(samples) - unlabelled:
            continue
        if dialect.parse(sample.completion) != reply:
            raise RowError(
                f"{dialect.name} cannot say this reply: {sample.completion[:80]!r}",
                f"it must be plain text without {dialect.stop[0]!r} and without a call of its own",
                failure=Failure.UNSAYABLE,
            )
        kept.append(sample)
    texts = {text for sample in kept for text in (sample.completion, *(m["content"] for m in sample.messages))}
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError("half a surrogate pair, which is not text", "correct the \\ud… escape") from error
    return kept


def _count(row: Read) -> int:
    """Return how many rows of the file a read row stands for."""
    if isinstance(row.content, dict) and isinstance(row.content.get("visit"), list):
        return int(row.content["rows"])
    return 1
