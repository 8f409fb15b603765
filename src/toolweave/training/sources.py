"""What a run learns from: data sets read, split, sampled, mixed with general chat, and given a persona.

In SWIFT's order: a share of each data set is held back, the rest is sampled, general chat is mixed in,
and rows about the model itself are added. All choices are drawn with the run's seed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from toolweave.data.jsonl import read_samples
from toolweave.data.mix import Persona, chat_samples, self_cognition_samples
from toolweave.errors import DataError
from toolweave.training.recipe import DataPart
from toolweave.training.rows import named
from toolweave.types import Lang, Sample


class Sources(NamedTuple):
    """Samples to learn and samples to evaluate on."""

    train: list[Sample]
    validation: list[Sample]


def gather(data: DataPart, seed: int) -> Sources:
    """Read and mix what the recipe names. Raises DataError naming file and line."""
    if not data.dataset:
        raise DataError("no data set to train on", "say --dataset FILE, or --dataset in the recipe of --config")
    train: list[Sample] = []
    validation: list[Sample] = []
    for source in data.dataset:
        rows = _load(source, data)
        held = set() if data.val_dataset else _hold_back(len(rows), data.dataset_test_ratio, f"{seed} {source}")
        train += [row for index, row in enumerate(rows) if index not in held]
        validation += [row for index, row in enumerate(rows) if index in held]
    for source in data.val_dataset:
        validation += _load(source, data)
    if 0 <= data.train_dataset_sample < len(train):
        train = random.Random(f"{seed} sample").sample(train, data.train_dataset_sample)
    chats = round(data.train_dataset_mix_ratio * len(train))
    if chats and data.mix_dataset:
        pool = [row for source in data.mix_dataset for row in _load(source, data)]
        train += _draw(pool, chats, f"{seed} mix")
    elif chats:
        train += named(chat_samples(chats, seed), "embedded chat")
    if data.self_cognition_sample:
        train += named(_self_cognition(data, seed), "self-cognition")
    return Sources(train, validation)


def _load(source: str, data: DataPart) -> list[Sample]:
    return named(read_samples(Path(source)), source)


def _hold_back(count: int, ratio: float, seed: str) -> set[int]:
    return set(random.Random(seed).sample(range(count), min(round(count * ratio), max(0, count - 1))))


def _draw(pool: Sequence[Sample], count: int, seed: str) -> list[Sample]:
    """Draw rows: all once before any twice."""
    if not pool:
        raise DataError("--mix_dataset holds no rows")
    rng = random.Random(seed)
    drawn: list[Sample] = []
    while len(drawn) < count:
        drawn += rng.sample(pool, min(len(pool), count - len(drawn)))
    return drawn


def _self_cognition(data: DataPart, seed: int) -> list[Sample]:
    """Return rows in both languages; of two names the first speaks Chinese, the second English."""
    rows: list[Sample] = []
    spoken = zip(Lang, (0, -1), strict=True)
    personas = {lang: Persona(data.model_name[at], data.model_author[at]) for lang, at in spoken}
    made = {lang: self_cognition_samples(data.self_cognition_sample, who, seed) for lang, who in personas.items()}
    for pair in zip(*made.values(), strict=True):
        # Both were drawn alike, so each row exists once under each persona.
        rows += [row for row, lang in zip(pair, made, strict=True) if row.meta["lang"] == lang]
    return rows
