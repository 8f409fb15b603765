"""Mixing data sets: shares drawn without replacement, general chat, self-cognition."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import cycle, islice

from toolweave.data.catalogue import TEST_CHATS, load_catalogue
from toolweave.data.self_cognition import Persona, self_cognition_samples
from toolweave.errors import DataError
from toolweave.types import Lang, Message, Sample


def draw(samples: Sequence[Sample], count: int, seed: int = 42) -> list[Sample]:
    """Draw `count` samples without replacement, in their own order; all of them if there are no more."""
    if count < 0:
        raise DataError(f"cannot draw {count} samples", "give a count of at least 0")
    if count >= len(samples):
        return list(samples)
    chosen = sorted(random.Random(seed).sample(range(len(samples)), count))
    return [samples[index] for index in chosen]


def mix_in(train: Sequence[Sample], general: Sequence[Sample], ratio: float, seed: int = 42) -> list[Sample]:
    """Return the training samples and `ratio` times as many general ones: SWIFT's `--train_dataset_mix_ratio`.

    A true sample where SWIFT takes the first rows. Raises DataError if there are fewer general samples
    than asked for, rather than mix less in silence.
    """
    if ratio < 0:
        raise DataError(f"--train_dataset_mix_ratio must be at least 0, not {ratio}")
    wanted = round(ratio * len(train))
    if wanted > len(general):
        raise DataError(
            f"a mix ratio of {ratio} needs {wanted} general samples, and there are {len(general)}",
            "lower --train_dataset_mix_ratio, or name a larger general data set",
        )
    return [*train, *draw(general, wanted, seed)]


def chat_samples(count: int, seed: int = 0) -> list[Sample]:
    """Return `count` general chats, both languages in turn, each pair once before any twice."""
    chats = load_catalogue().chat
    rng = random.Random(seed)
    streams = {}
    for lang in Lang:
        order = [(pair["q"], pair["a"]) for pair in chats[lang][:-TEST_CHATS]]
        rng.shuffle(order)
        streams[lang] = cycle(order)
    samples: list[Sample] = []
    for lang in islice(cycle(Lang), count):
        question, answer = next(streams[lang])
        messages = (Message(role="user", content=question),)
        samples.append(Sample(messages, answer, meta={"kind": "chat", "lang": lang}))
    return samples


__all__ = ["Persona", "chat_samples", "draw", "mix_in", "self_cognition_samples"]
