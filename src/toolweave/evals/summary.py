"""What results add up to: rates with intervals by line, language, agent and tool, failures with examples, cost."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from toolweave.evals.cases import Line
from toolweave.evals.score import CLASSES, Counts, VisitResult, count
from toolweave.evals.stats import pass_hat_k, wilson
from toolweave.types import Json, Lang

_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Cost:
    """What the visits cost: model seconds and tokens; `cached` visits cost it earlier."""

    visits: int
    cached: int
    model_calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds_median: float
    seconds_p95: float


def total(results: Iterable[VisitResult]) -> Counts:
    """Count all results together."""
    counts = Counts()
    for result in results:
        counts.add(result)
    return counts


def grouped(results: Iterable[VisitResult], keys: Callable[[VisitResult], Iterable[str]]) -> dict[str, Counts]:
    """Count results by key; one with several keys counts for each."""
    groups: dict[str, Counts] = defaultdict(Counts)
    for result in results:
        for key in keys(result):
            groups[key].add(result)
    return dict(sorted(groups.items()))


def failures(results: Sequence[VisitResult]) -> dict[str, list[VisitResult]]:
    """Return the failed visits by class of failure, the most frequent class first."""
    found: dict[str, list[VisitResult]] = defaultdict(list)
    for result in results:
        # A visit may be wrong in a way that no class of calls or answers names: then the four say it.
        names = result.failures or tuple(name for name in CLASSES if not getattr(result, name))
        for name in names if not result.ok else ():
            found[name].append(result)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def pass_rates(results: Iterable[VisitResult]) -> dict[int, float]:
    """Return pass^k for k from 1 to the number of trials; only pass^1 for one trial."""
    tries: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for result in results:
        tries[result.id] += 1
        right[result.id] += result.ok
    counts = [(right[name], tries[name]) for name in tries]
    return {k: pass_hat_k(counts, k) for k in range(1, max(tries.values(), default=0) + 1)}


def cost(results: Sequence[VisitResult]) -> Cost:
    """Return what the visits cost."""
    seconds = sorted(result.seconds for result in results)
    return Cost(
        visits=len(results),
        cached=sum(result.cached for result in results),
        model_calls=sum(result.model_calls for result in results),
        prompt_tokens=sum(result.prompt_tokens for result in results),
        completion_tokens=sum(result.completion_tokens for result in results),
        seconds_median=statistics.median(seconds) if seconds else 0.0,
        seconds_p95=seconds[math.ceil(0.95 * len(seconds)) - 1] if seconds else 0.0,
    )


def summary_json(results: Sequence[VisitResult]) -> Json:
    """Return the whole summary: counts (not rates) as in the demo's report, and the rest beside them."""
    spent = cost(results)
    return {
        "all": _counted(total(results)),
        "lines": {line.value: _counted(counts) for line, counts in count(results).items() if counts.n},
        "by_language": {
            lang.value: {
                line.value: counts.to_json()
                for line, counts in count(r for r in results if r.lang == lang).items()
                if counts.n
            }
            for lang in Lang
        },
        "by_agent": _groups(grouped(results, lambda result: [result.agent] if result.agent else [])),
        "by_tool": _groups(grouped(results, lambda result: result.tools)),
        "failures": {
            name: {"n": len(failed), "examples": [_example(result) for result in failed[:_EXAMPLES]]}
            for name, failed in failures(results).items()
        },
        "pass^k": {str(k): round(rate, 4) for k, rate in pass_rates(results).items()},
        "cost": {name: getattr(spent, name) for name in Cost.__slots__},
    }


def lines_and_languages(results: Sequence[VisitResult]) -> list[tuple[Line, Lang, Counts]]:
    """Return the rows of the table: each line in each language that has visits."""
    rows = [(line, lang, count(r for r in results if r.lang == lang)[line]) for line in Line for lang in Lang]
    return [row for row in rows if row[2].n]


def rate(counts: Counts) -> str:
    """Return right visits with their interval, as text."""
    low, high = wilson(counts.ok, counts.n)
    return f"{counts.ok}/{counts.n} ({100 * low:.0f}–{high:.0%})"


def shares(counts: Counts) -> list[str]:
    """Return how many visits pass each class, as text."""
    return [f"{getattr(counts, name)}/{counts.n}" for name in CLASSES]


def _groups(groups: dict[str, Counts]) -> Json:
    return {name: counts.to_json() for name, counts in groups.items()}


def _counted(counts: Counts) -> Json:
    low, high = wilson(counts.ok, counts.n)
    return {**counts.to_json(), "interval": [round(low, 4), round(high, 4)]}


def _example(result: VisitResult) -> dict[str, Any]:
    return {
        "id": result.id,
        "query": result.query,
        "calls": list(result.calls),
        "answer": result.answer,
        "reference": result.reference,
    }
