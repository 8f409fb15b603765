"""What a run learns from: data sets read, split, sampled, mixed with general chat, and given a persona.

In SWIFT's order: a share of each data set is held back, the rest is sampled, general chat is mixed in,
and rows about the model itself are added. All choices are drawn with the run's seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from toolweave.data.load import VISIT, load_samples
from toolweave.data.mix import chat_samples, draw, mix_in
from toolweave.data.self_cognition import Persona, self_cognition_samples
from toolweave.data.split import split
from toolweave.errors import DataError
from toolweave.training.recipe import DataPart
from toolweave.training.rows import Dropped
from toolweave.types import Sample


@dataclass(slots=True)
class Sources:
    """Samples to learn, samples to evaluate on, and the rows that reading left out."""

    train: list[Sample] = field(default_factory=list)
    validation: list[Sample] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)


def gather(data: DataPart, seed: int) -> Sources:
    """Read and mix what the recipe names: files, folders and hub ids in any format that has a reader.

    Whole rows (visits) are held back, so that no sibling of an evaluation sample is learned. Raises
    DataError naming file and line.
    """
    if not data.dataset:
        raise DataError("no data set to train on", "say --dataset FILE, or --dataset in the recipe of --config")
    sources = Sources()
    for source in data.dataset:
        ratio = 0.0 if data.val_dataset else data.dataset_test_ratio
        parts = split(_load(source, data, sources), ratio, seed=seed)
        sources.train += parts.train
        sources.validation += parts.test
    for source in data.val_dataset:
        sources.validation += _load(source, data, sources)
    if data.train_dataset_sample >= 0:
        sources.train = draw(sources.train, data.train_dataset_sample, seed)
    if data.mix_dataset:
        general = [sample for source in data.mix_dataset for sample in _load(source, data, sources)]
        sources.train = mix_in(sources.train, general, data.train_dataset_mix_ratio, seed)
    else:
        chats = chat_samples(round(data.train_dataset_mix_ratio * len(sources.train)), seed)
        sources.train += _named(chats, "embedded chat")
    persona = Persona(_spoken(data.model_name), _spoken(data.model_author))
    sources.train += _named(self_cognition_samples(data.self_cognition_sample, persona, seed), "self-cognition")
    return sources


def _load(source: str, data: DataPart, sources: Sources) -> list[Sample]:
    loaded = load_samples(source, dialect=data.dialect, strategy=data.check_dataset_strategy)
    sources.dropped += [Dropped(row.id or f"{row.file}:{row.line}", row.reason) for row in loaded.report.dropped]
    return list(loaded.samples)


def _spoken(names: tuple[str, ...]) -> str | tuple[str, str]:
    return names[0] if len(names) == 1 else (names[0], names[-1])


def _named(samples: Iterable[Sample], source: str) -> list[Sample]:
    """Give samples that come from no file the name `source:number`, counted from 1."""
    return [
        replace(sample, meta={**sample.meta, VISIT: f"{source}:{number}"})
        for number, sample in enumerate(samples, start=1)
    ]
