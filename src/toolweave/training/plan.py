"""The order of a run: which micro-batches each step takes, as a function of the seed and nothing else."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from toolweave.training.batching import shared_batches, shuffled
from toolweave.training.prefix_tree import Encoded
from toolweave.training.recipe import OptimPart, Scheduler


@dataclass(slots=True)
class Plan:
    """Micro-batches in the order they are learned; `width` of them, over all processes, make one step."""

    batches: Sequence[list[Encoded]]
    width: int
    optim: OptimPart
    _epoch: int = field(default=-1, init=False)
    _order: list[list[Encoded]] = field(default_factory=list, init=False)

    @classmethod
    def of(cls, samples: Sequence[Encoded], optim: OptimPart, world: int) -> Plan:
        """Cut samples into micro-batches by rows or by tokens, as the recipe says."""
        if optim.batch_size is None:
            batches = shared_batches(samples, optim.max_tokens_per_batch)
        else:
            batches = by_rows(samples, optim.batch_size)
        return cls(batches, optim.micro_batches(world), optim)

    @property
    def per_epoch(self) -> int:
        """Steps of one epoch."""
        return math.ceil(len(self.batches) / self.width)

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        steps = self.per_epoch * self.optim.num_train_epochs
        return steps if self.optim.max_steps < 1 else min(steps, self.optim.max_steps)

    def step(self, number: int) -> list[list[Encoded]]:
        """Return the micro-batches of step `number`, counted from 0; an epoch's last step may have fewer."""
        epoch, first = divmod(number, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, shuffled(self.batches, self.optim.seed, epoch)
        return self._order[first * self.width : (first + 1) * self.width]

    def learning_rate(self, number: int) -> float:
        """Return the learning rate of step `number`, counted from 0."""
        warmup = max(1, math.ceil(self.total * self.optim.warmup_ratio))
        if number < warmup:
            scale = (number + 1) / warmup
        else:
            left = (self.total - number) / max(1, self.total - warmup)
            match self.optim.lr_scheduler_type:
                case Scheduler.LINEAR:
                    scale = left
                case Scheduler.COSINE:
                    scale = (1 - math.cos(math.pi * left)) / 2
                case Scheduler.CONSTANT:
                    scale = 1.0
        return self.optim.learning_rate * scale


def by_rows(samples: Sequence[Encoded], size: int) -> list[list[Encoded]]:
    """Cut samples into micro-batches of `size` rows, neighbours in a trie together."""
    ordered = sorted(samples, key=lambda sample: sample.ids)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def labels(batch: Iterable[Encoded]) -> int:
    """Return how many label tokens the samples have."""
    return sum(len(sample.ids) - sample.prompt for sample in batch)


def fingerprint(samples: Sequence[Encoded]) -> str:
    """Return a hash of all tokens and labels, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(array("I", (len(sample.ids), sample.prompt, *sample.ids)).tobytes())
    return digest.hexdigest()[:16]
