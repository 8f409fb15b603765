"""What a run says while it trains: `logging.jsonl`, TensorBoard, and the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

LOG_NAME = "logging.jsonl"
_console = Console(stderr=True, soft_wrap=True)


class RunLog:
    """Writes each logged step to file and board, and shows how far the run is. Lines after step `first` are redone."""

    def __init__(self, run: Path, first: int, total: int) -> None:
        path = run / LOG_NAME
        kept = _lines_up_to(path, first)
        self._file = path.open("w", encoding="utf-8")
        self._file.writelines(kept)
        self._board = SummaryWriter(str(run / "runs"), purge_step=first + 1 if first else None)
        self._bar = Progress(
            TextColumn("train"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"), console=_console, disable=not _console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("train", total=total, completed=first, note="")
        self._total = total

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()
        self._file.close()
        self._board.close()

    def advance(self, step: int, loss: float) -> None:
        """Show that `step` is done."""
        self._bar.update(self._task, completed=step, note=f"loss {loss:.3f}")

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log the scalars of a step; without a terminal they are also printed, one line a step."""
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **rounded}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if not _console.is_terminal:
            told = ", ".join(f"{name} {value:.4g}" for name, value in rounded.items())
            _console.print(f"step {step}/{self._total}: {told}", highlight=False)


def _lines_up_to(path: Path, step: int) -> list[str]:
    """Return the log's whole lines of steps up to `step`; a killed process may have left half a line."""
    kept = []
    for line in path.read_text("utf-8").splitlines(keepends=True) if step and path.is_file() else []:
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return kept
