"""From samples to batches: tokens once, neighbours that share a prefix in one batch."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from toolweave.errors import DataError
from toolweave.models.template import ChatTemplate
from toolweave.training.prefix_tree import Encoded
from toolweave.types import Sample


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
        prompt = template.prompt_ids(sample.messages)
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

    In lexicographic order every prefix is one contiguous run, so a greedy cut shares nearly all that
    can be shared. A sample longer than the budget gets a batch of its own.
    """
    batches: list[list[Encoded]] = []
    used = 0
    for sample in sorted(samples, key=lambda item: item.ids):
        new = len(sample.ids) - (_common(batches[-1][-1].ids, sample.ids) if batches else 0)
        if not batches or used + new > max_tokens:
            batches.append([sample])
            used = len(sample.ids)
        else:
            batches[-1].append(sample)
            used += new
    return batches


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
