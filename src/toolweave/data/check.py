"""`toolweave data check`: what is wrong with a data set, by failure and by tool, with examples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

from toolweave.data.load import VISIT, Dropped, Loading, LoadReport
from toolweave.data.problems import Failure
from toolweave.data.strategy import Strategy
from toolweave.dialects import dialect_of, get_dialect
from toolweave.errors import ModelError
from toolweave.types import InvalidToolCall, Sample


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found in one source. `problems` are the rows left out, and the samples no model could take."""

    name: str
    load: LoadReport
    problems: tuple[Dropped, ...]


@dataclass(slots=True)
class ToolCounts:
    """How often a tool is called, and how often wrongly."""

    calls: int = 0
    problems: Counter[Failure] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The findings of all sources; `tokens` holds the length of each sample, if a model was named."""

    sources: tuple[Checked, ...]
    tools: dict[str, ToolCounts]
    tokens: tuple[int, ...] = ()

    @property
    def problems(self) -> tuple[Dropped, ...]:
        """All problems, in order."""
        return tuple(chain.from_iterable(source.problems for source in self.sources))

    def by_failure(self) -> dict[Failure, list[Dropped]]:
        """Return the problems of each kind, the most frequent kind first."""
        counts = Counter(problem.failure for problem in self.problems)
        return {
            failure: [problem for problem in self.problems if problem.failure is failure]
            for failure, _ in counts.most_common()
        }


def check(
    sources: Sequence[str],
    *,
    format: str | None = None,
    dialect: str = "v06",
    model: str | None = None,
    max_length: int = 2048,
    strategy: Strategy = Strategy.WARNING,
) -> CheckReport:
    """Check data sets. With a model, samples are rendered by its chat template and counted in tokens.

    Every problem is collected, whatever the strategy; `Strategy.NONE` only reads. Raises DataError for a
    source that cannot be read at all.
    """
    measure = _Measure(model, max_length) if model else None
    reading = Strategy.NONE if strategy is Strategy.NONE else Strategy.WARNING
    tools: dict[str, ToolCounts] = {}
    checked = []
    for source in sources:
        loading = Loading(source, format=format, dialect=dialect, strategy=reading)
        too_long: list[Dropped] = []
        for sample in loading.samples():
            for name in _called(sample):
                tools.setdefault(name, ToolCounts()).calls += 1
            if measure and (problem := measure.problem(sample)):
                too_long.append(problem)
        report = loading.report()
        checked.append(Checked(str(source), report, (*report.dropped, *too_long)))
        for problem in checked[-1].problems:
            if problem.tool:
                tools.setdefault(problem.tool, ToolCounts()).problems[problem.failure] += 1
    return CheckReport(tuple(checked), tools, tuple(measure.tokens) if measure else ())


class _Measure:
    """Renders samples with a model's chat template."""

    def __init__(self, model: str, max_length: int) -> None:
        # Here, as a check without a model needs no torch, which takes seconds to load.
        from toolweave.models.base_models import load_template

        self._template = load_template(model)
        self._max_length = max_length
        self.tokens: list[int] = []

    def problem(self, sample: Sample) -> Dropped | None:
        """Return what keeps a sample from being trained on, if anything does."""
        file, _, line = str(sample.meta.get(VISIT, "")).rpartition(":")
        at, own = int(line) if line.isdigit() else 0, str(sample.meta.get("id") or "")
        try:
            prompt = self._template.request_ids(sample)
        except ModelError as error:
            return Dropped(at, str(error).splitlines()[0], Failure.TEMPLATE, own, file)
        length = len(prompt) + len(self._template.completion_ids(sample.completion))
        self.tokens.append(length)
        if length <= self._max_length:
            return None
        return Dropped(at, f"{length} tokens, and {self._max_length} are allowed", Failure.LENGTH, own, file)


def _called(sample: Sample) -> list[str]:
    dialect = dialect_of(sample) or get_dialect("v06")
    calls = dialect.parse(sample.completion).calls
    return [call.name for call in calls if not isinstance(call, InvalidToolCall)]
