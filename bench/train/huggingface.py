"""What the peers' workers share: both train with transformers' Trainer, so one callback takes their turns."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from turns import Turns


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


class TurnCallback(TrainerCallback):
    """One turn is `per_turn` micro-batches: forward, backward and, after the last of a step, the optimiser.

    Compares what reaches the model with the rows `tokens`, in their order.
    """

    def __init__(self, turns: Turns, tokens: list[dict[str, Any]], version: str, per_turn: int) -> None:
        self._turns, self._rows, self._version, self._per_turn = turns, tokens, version, per_turn
        self._seen: list[dict[str, Any]] = []
        self._at = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Watch what reaches the model."""
        self._size = args.per_device_train_batch_size
        kwargs["model"].register_forward_pre_hook(self._look, with_kwargs=True)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the turn of a micro-batch."""
        self._batch_is_over()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the turn of a step's last micro-batch."""
        self._batch_is_over()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report the losses."""
        self._turns.finish([entry["loss"] for entry in state.log_history if "loss" in entry], self._version)

    def _batch_is_over(self) -> None:
        if len(self._seen) == self._per_turn:
            sums = {name: sum(seen[name] for seen in self._seen) for name in ("tokens", "padded", "labels")}
            same = all(seen["same"] for seen in self._seen)
            self._seen.clear()
            self._turns.over(**sums, same=same)

    def _look(self, module: Any, args: Any, inputs: dict[str, Any]) -> None:
        """Note how the batch differs from the rows it is made of: a few microseconds a row."""
        rows = self._rows[self._at : self._at + self._size]
        self._at += self._size
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        real = ids if mask is None else ids[mask.bool()]
        labels = inputs["labels"][inputs["labels"] != -100].tolist()
        wanted = list(chain.from_iterable(row["ids"] for row in rows))
        learned = list(chain.from_iterable(row["ids"][row["prompt"] :] for row in rows))
        seen = {
            "tokens": real.numel(),
            "padded": ids.numel(),
            "labels": len(labels),
            "same": real.flatten().tolist() == wanted and labels == learned,
        }
        self._seen.append(seen)
