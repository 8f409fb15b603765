"""A test part held back by groups, so that no sibling of a test sample is trained on."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from toolweave.data.load import VISIT
from toolweave.errors import DataError
from toolweave.types import Sample


class GroupBy(StrEnum):
    """Which samples are siblings."""

    VISIT = "visit"
    """The requests of one row."""
    AGENT = "agent"
    """All requests with the same system message."""
    TOOL = "tool"
    """All requests that show the same set of tools."""


class Parts(NamedTuple):
    """Samples to train on, and to test with, each in the order they came in."""

    train: list[Sample]
    test: list[Sample]


def split(samples: Sequence[Sample], ratio: float, *, by: GroupBy = GroupBy.VISIT, seed: int = 42) -> Parts:
    """Hold whole groups back until they hold `ratio` of the samples; the same seed holds the same ones back.

    A ratio above 0 holds at least one group back, and leaves at least one. Samples of no group (self-cognition
    and other single rows) are groups of their own.
    """
    if not 0 <= ratio < 1:
        raise DataError(f"the test ratio must be a share from 0 to 1, not {ratio}")
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(samples):
        groups.setdefault(group_of(sample, by), []).append(index)
    names = list(groups)
    random.Random(seed).shuffle(names)
    wanted = ratio * len(samples)
    held: set[int] = set()
    for name in names[:-1]:
        if len(held) >= wanted:
            break
        # A group that overshoots by more than half of itself would make the part larger than asked for.
        if held and len(held) + len(groups[name]) / 2 > wanted:
            continue
        held.update(groups[name])
    train = [sample for index, sample in enumerate(samples) if index not in held]
    return Parts(train, [samples[index] for index in sorted(held)])


def group_of(sample: Sample, by: GroupBy) -> str:
    """Return the name of a sample's group."""
    if by is GroupBy.TOOL and sample.tools:
        return "tools " + ",".join(sorted(tool.name for tool in sample.tools))
    first = sample.messages[0]
    if by is not GroupBy.VISIT and first["role"] == "system":
        return "system " + _digest(first["content"])
    if by is GroupBy.VISIT and VISIT in sample.meta:
        return f"visit {sample.meta[VISIT]}"
    # Nothing tells its siblings: the same text is the same group.
    return "sample " + _digest("\0".join((*(message["content"] for message in sample.messages), sample.completion)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
