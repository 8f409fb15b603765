"""Intervals and tests for counts of visits."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

_Z = 1.959964
_RESAMPLES = 4000


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def wilson(successes: int, n: int) -> Interval:
    """Return the 95 % Wilson interval of a rate, as shares of 1; (0, 1) when nothing was counted."""
    if n == 0:
        return Interval(0.0, 1.0)
    rate = successes / n
    centre = rate + _Z * _Z / (2 * n)
    half = _Z * math.sqrt(rate * (1 - rate) / n + _Z * _Z / (4 * n * n))
    # Rounding must not leave [0, 1]: "-0 %" would be shown.
    low, high = (min(1.0, max(0.0, end / (1 + _Z * _Z / n))) for end in (centre - half, centre + half))
    return Interval(low, high)


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact two-sided p of McNemar's test: `gained` pairs became right, `lost` became wrong."""
    n = gained + lost
    if n == 0:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(gained, lost) + 1))
    return min(1.0, float(2 * tail / 2**n))


def bootstrap(differences: Sequence[float], seed: int = 0) -> Interval:
    """Return the 95 % percentile interval of the mean of paired differences; (-1, 1) without any."""
    if not differences:
        return Interval(-1.0, 1.0)
    rng = random.Random(seed)
    n = len(differences)
    means = sorted(sum(rng.choices(differences, k=n)) / n for _ in range(_RESAMPLES))
    return Interval(means[int(0.025 * _RESAMPLES)], means[int(0.975 * _RESAMPLES) - 1])


def pass_hat_k(counts: Sequence[tuple[int, int]], k: int) -> float:
    """Return pass^k: the chance that k samples of one visit are all right, averaged over visits.

    `counts` holds (right, tries) of each visit; those with fewer than k tries are left out. NaN without any.
    """
    usable = [(right, n) for right, n in counts if n >= k]
    if not usable:
        return math.nan
    return math.fsum(math.comb(right, k) / math.comb(n, k) for right, n in usable) / len(usable)
