"""From samples to batches: tokens once, neighbours that share a prefix in one batch."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from toolweave.errors import DataError
from toolweave.models.template import ChatTemplate
from toolweave.training.prefix_tree import Encoded
from toolweave.types import Sample

# Prefixes that differ by less are as good as equal: cuts then fall near the middle, and there are few levels of them.
_GRAIN = 64


@dataclass(frozen=True, slots=True)
class EncodedData:
    """Encoded samples and how many were too long to use."""

    samples: tuple[Encoded, ...]
    too_long: int


def encode(samples: Iterable[Sample], template: ChatTemplate, max_length: int) -> EncodedData:
    """Tokenise samples; labels are the completion and its end token. Raises DataError if none is usable."""
    kept: list[Encoded] = []
    too_long = 0
    for sample in samples:
        prompt = template.request_ids(sample)
        ids = (*prompt, *template.completion_ids(sample.completion))
        if len(ids) > max_length:
            too_long += 1
        else:
            kept.append(Encoded(ids, len(prompt)))
    if not kept:
        raise DataError("no sample to train on", f"{too_long} samples are longer than --max_length {max_length}")
    return EncodedData(tuple(kept), too_long)


def shared_batches(samples: Sequence[Encoded], max_tokens: int) -> list[list[Encoded]]:
    """Cut the samples into batches of at most `max_tokens` distinct tokens, neighbours in a trie together.

    In lexicographic order every prefix is one contiguous run. What is too much is cut where its neighbours
    share least, of such places nearest the middle, so that the samples of one prompt stay together when they
    fit. A sample longer than the budget gets a batch of its own.
    """
    ordered = sorted(samples, key=lambda item: item.ids)
    shared = [0, *(_common(a.ids, b.ids) for a, b in pairwise(ordered))]
    total = [0, *accumulate(len(sample.ids) - common for sample, common in zip(ordered, shared, strict=False))]

    def fits(start: int, stop: int) -> bool:
        return total[stop] - total[start] + shared[start] <= max_tokens

    cuts: list[tuple[int, int]] = []
    left = [(0, len(ordered))] if ordered else []
    while left:
        start, stop = left.pop()
        if stop - start > 1 and not fits(start, stop):
            middle = (start + stop) / 2
            cut = min(range(start + 1, stop), key=lambda at: (shared[at] // _GRAIN, abs(at - middle)))
            left += [(cut, stop), (start, cut)]
        elif cuts and fits(cuts[-1][0], stop):
            cuts[-1] = (cuts[-1][0], stop)
        else:
            cuts.append((start, stop))
    return [ordered[start:stop] for start, stop in cuts]


def shuffled(batches: Sequence[list[Encoded]], seed: int, epoch: int) -> list[list[Encoded]]:
    """Return the batches in this epoch's order."""
    order = list(batches)
    random.Random(f"{seed}-{epoch}").shuffle(order)
    return order


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length
