"""How far a run is, as its checkpoints say it. Does not load torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from toolweave.errors import ModelError
from toolweave.training.layout import checkpoints
from toolweave.weights.manifest import broken

_FILE = "training.json"


@dataclass(frozen=True, slots=True)
class Best:
    """The best evaluation so far: its step, and the metric's value."""

    step: int
    value: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. `identity` is all that decides its result: it goes on only if this is unchanged."""

    identity: Mapping[str, Any]
    step: int = 0
    best: Best | None = None
    nominal: int = 0
    distinct: int = 0
    seconds: float = 0.0
    train_loss: float | None = None
    eval_loss: float | None = None

    @classmethod
    def read(cls, folder: Path) -> Progress:
        """Return what a checkpoint says. Raises ModelError when it says nothing."""
        try:
            content = json.loads((folder / _FILE).read_text("utf-8"))
            progress = cls(**content)
            return replace(progress, best=Best(**content["best"])) if content["best"] else progress
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ModelError(f"{folder} is no checkpoint of toolweave sft: {error}") from error

    def save(self, folder: Path) -> None:
        """Write it into a checkpoint."""
        (folder / _FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")


def best_checkpoint(folder: Path) -> Path:
    """Return the best checkpoint of a run folder, by its newest complete one. Raises ModelError when there is none."""
    for step, path in sorted(checkpoints(folder).items(), reverse=True):
        if broken(path) is None:
            progress = Progress.read(path)
            return folder / f"checkpoint-{progress.best.step if progress.best else step}"
    raise ModelError(f"{folder} holds no complete checkpoint", "give the folder that toolweave sft wrote to")
