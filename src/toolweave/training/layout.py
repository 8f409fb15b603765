"""Where a run writes: `output/<model>/vN-<time>/checkpoint-N`, as SWIFT lays it out."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from toolweave.errors import ModelError
from toolweave.training.recipe import RunPart
from toolweave.weights.manifest import broken, restore_folder

AUTO = "auto"
_RUN = re.compile(r"v(\d+)-\d{8}-\d{6}")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def model_type(model: str) -> str:
    """Return the folder name of a base model: `qwen/Qwen-7B-Chat` is `qwen-7b-chat`."""
    name = Path(model).resolve().name if Path(model).exists() else model.rsplit("/", 1)[-1]
    return re.sub(r"[^\w.\-]", "-", name.removesuffix(".gguf").lower())


def choose_run(run: RunPart, model: str) -> Path:
    """Return the folder that a run writes to: the one it goes on in, or a new one. Creates nothing.

    Raises ModelError when what it should go on with is not there, or a new run would mix with an old one.
    """
    parent = run.output_dir / model_type(model) if run.add_output_dir_suffix else run.output_dir
    if run.resume_from_checkpoint not in (None, AUTO):
        return _named(Path(str(run.resume_from_checkpoint)))
    if not run.add_output_dir_suffix:
        if run.resume_from_checkpoint is None and checkpoints(parent):
            raise ModelError(
                f"{parent} holds checkpoints of another run",
                "say --resume_from_checkpoint auto to go on with it, or choose another --output_dir",
            )
        return parent.absolute()
    old = {int(match[1]): path for path in _folders(parent) if (match := _RUN.fullmatch(path.name))}
    if run.resume_from_checkpoint == AUTO and old:
        return old[max(old)].absolute()
    return (parent / f"v{max(old, default=-1) + 1}-{datetime.now():%Y%m%d-%H%M%S}").absolute()


def named_checkpoint(run: RunPart) -> Path | None:
    """Return the checkpoint that the run must go on from, None when its newest complete one will do."""
    named = run.resume_from_checkpoint
    return Path(named).absolute() if named and _CHECKPOINT.fullmatch(Path(named).name) else None


def checkpoints(folder: Path) -> dict[int, Path]:
    """Return the checkpoint folders of a run by step, complete or not, oldest first."""
    found = {int(match[1]): path for path in _folders(folder) if (match := _CHECKPOINT.fullmatch(path.name))}
    return dict(sorted(found.items()))


def _named(path: Path) -> Path:
    """Return the run folder of a checkpoint or run that the user named."""
    restore_folder(path)
    if not path.is_dir():
        raise ModelError(f"no checkpoint at {path}", "give a checkpoint-N folder, or the run folder that holds it")
    if _CHECKPOINT.fullmatch(path.name):
        reason = broken(path)
        if reason:
            raise ModelError(
                f"{path} cannot be resumed: {reason}",
                f"give the run folder {path.parent} to take its newest complete checkpoint",
            )
        return path.parent.absolute()
    if not checkpoints(path):
        raise ModelError(f"{path} holds no checkpoint", "give a checkpoint-N folder, or the run folder that holds it")
    return path.absolute()


def _folders(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
