"""Training runs: started, watched, stopped and gone on with, each in a process of its own.

A run is a folder as `toolweave sft` writes it, found again by any Studio: recipe (`sft_args.json`), log
(`logging.jsonl`), what the trainer printed (`train.log`) and where its data came from (`lineage.json`).
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from toolweave.data.json_files import read_json, write_json
from toolweave.errors import DataError, ModelError
from toolweave.evals.cases import selection_visits
from toolweave.evals.score import VisitResult
from toolweave.evals.visit import run_visit
from toolweave.serving.process import run_program, serve_model
from toolweave.studio.lineage import Lineage, lineage_of
from toolweave.studio.processes import Detached
from toolweave.training.layout import AUTO, checkpoints, choose_run
from toolweave.training.progress import best_checkpoint
from toolweave.training.recipe import Recipe, write_config
from toolweave.types import Json

_ARGS, _LINEAGE, _LOG = "sft_args.json", "lineage.json", "logging.jsonl"
_SAMPLE_TOKENS = 160
_SAVED = "stopped after step"  # how the trainer's message begins when it saved and ended


class RunStatus(StrEnum):
    """How a run is."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True)
class Run:
    """A run as it is now. `log` has one entry a logged step; `message` says why it failed."""

    name: str
    folder: Path
    status: RunStatus
    recipe: Json
    log: tuple[Mapping[str, float], ...] = ()
    message: str = ""

    @property
    def step(self) -> int:
        """The last logged step, 0 before the first."""
        return int(self.log[-1]["step"]) if self.log else 0

    @property
    def total(self) -> int | None:
        """Steps of the whole run; None before the first is logged."""
        if not self.log or not self.log[-1].get("epoch"):
            return None
        last = self.log[-1]
        steps = round(last["step"] / last["epoch"]) * int(self.recipe.get("num_train_epochs", 1))
        most = int(self.recipe.get("max_steps", -1))
        return steps if most < 1 else min(steps, most)

    @property
    def loss(self) -> float | None:
        """The training loss of the last logged step, per label token."""
        return self.log[-1].get("loss") if self.log else None

    @property
    def eval_loss(self) -> float | None:
        """The newest evaluation loss."""
        return next((entry["eval_loss"] for entry in reversed(self.log) if "eval_loss" in entry), None)

    @property
    def speed(self) -> float | None:
        """Tokens a second, counted as if no prefix were shared."""
        return self.log[-1].get("tokens_per_second") if self.log else None

    @property
    def seconds_left(self) -> float | None:
        """How long it will take to the last step at the pace so far; None if that is not known."""
        if self.status is not RunStatus.RUNNING or not self.total or not self.log[-1].get("seconds"):
            return None
        return self.log[-1]["seconds"] / self.step * (self.total - self.step)

    @property
    def checkpoint_steps(self) -> tuple[int, ...]:
        """The steps that were saved, oldest first."""
        return tuple(checkpoints(self.folder))

    @cached_property
    def lineage(self) -> Lineage:
        """What it learned from, as it was when the run began."""
        path = self.folder / _LINEAGE
        return Lineage.from_json(read_json(path)) if path.is_file() else Lineage()


class Runs:
    """The runs under a folder, those of `toolweave sft --output_dir ROOT` among them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def start(self, recipe: Recipe) -> Run:
        """Begin a run in a new folder under the root.

        Raises DataError when there is no data set to train on or one cannot be read.
        """
        if not recipe.data.dataset:
            raise DataError("no data set to train on", "choose at least one")
        lineage = lineage_of(recipe.data.dataset)
        suffixed = {"output_dir": self.root, "add_output_dir_suffix": True, "resume_from_checkpoint": None}
        folder = choose_run(recipe.run.model_copy(update=suffixed), recipe.base.model)
        folder.mkdir(parents=True)
        # Resuming with "auto" begins where there is no checkpoint, so that one command begins and goes on.
        here = {"output_dir": folder, "add_output_dir_suffix": False, "resume_from_checkpoint": AUTO}
        write_config(recipe.model_copy(update={"run": recipe.run.model_copy(update=here)}), folder / _ARGS)
        write_json(folder / _LINEAGE, lineage.to_json())
        self._trainer(folder).start(_command(folder))
        return self._read(folder)

    def all(self) -> list[Run]:
        """Return all runs, those begun last first."""
        found = sorted(self.root.glob(f"*/*/{_ARGS}"), key=lambda path: path.parent.name.partition("-")[2])
        return [self._read(path.parent) for path in reversed(found)]

    def get(self, name: str) -> Run:
        """Return a run by its name. Raises ModelError when there is none."""
        folder = self.root / name
        known = {path.parent for path in self.root.glob(f"*/*/{_ARGS}")}
        if folder not in known:
            raise ModelError(f"there is no run {name!r}", "choose one of the list")
        return self._read(folder)

    def stop(self, name: str) -> None:
        """Ask a run to save its step and end; it may take a step's time."""
        self._trainer(self.get(name).folder).ask_to_stop()

    def resume(self, name: str) -> Run:
        """Go on with a run that was stopped or failed, from its newest complete checkpoint or the beginning."""
        run = self.get(name)
        if run.status in (RunStatus.STOPPED, RunStatus.FAILED):
            self._trainer(run.folder).start(_command(run.folder))
        return self._read(run.folder)

    def merged(self, name: str) -> Path:
        """Return the merged model of a run's best checkpoint; it is made in a process of its own if it is not there.

        Raises ModelError when the run has no checkpoint yet, ServerError with what the merge says when it fails.
        """
        checkpoint = best_checkpoint(self.get(name).folder)
        target = checkpoint.with_name(f"{checkpoint.name}-merged")
        if not (target / "config.json").is_file():
            _merge(checkpoint, target)
        return target

    def delete(self, name: str) -> None:
        """Remove a run that is not running, with its checkpoints and merged models."""
        run = self.get(name)
        if run.status is RunStatus.RUNNING:
            raise ModelError(f"{name} is running", "stop it first")
        shutil.rmtree(run.folder)

    def printed(self, name: str) -> str:
        """Return the end of what the trainer printed since it was started last."""
        return self._trainer(self.get(name).folder).said()

    def _read(self, folder: Path) -> Run:
        recipe, log = read_json(folder / _ARGS), _read_log(folder / _LOG)
        status, message = self._status(folder)
        return Run(folder.relative_to(self.root).as_posix(), folder, status, recipe, log, message)

    def _status(self, folder: Path) -> tuple[RunStatus, str]:
        trainer = self._trainer(folder)
        if trainer.alive():
            return RunStatus.RUNNING, ""
        if (folder / "images" / "loss.png").is_file():  # the last thing that the trainer does
            return RunStatus.FINISHED, ""
        lines = [line.strip() for line in trainer.said().splitlines() if line.strip()]
        error = next((at for at, line in enumerate(lines) if line.startswith("error:")), None)
        if error is not None:
            return RunStatus.FAILED, " ".join(lines[error : error + 2]).removeprefix("error:").strip()
        saved = any(line.startswith(_SAVED) for line in lines)
        if saved or trainer.stop_asked or not trainer.known:
            return RunStatus.STOPPED, ""
        return RunStatus.FAILED, lines[-1] if lines else "it ended without a word"

    @staticmethod
    def _trainer(folder: Path) -> Detached:
        return Detached(folder, "train")


def sample_visits(checkpoint: Path, count: int) -> Iterator[VisitResult]:
    """Serve a checkpoint for the occasion and yield a few visits by it, none of which evaluation counts.

    Raises ServerError when it cannot be merged or served.
    """
    with TemporaryDirectory(prefix="toolweave-sample-") as folder:
        model = str(_merge(checkpoint, Path(folder) / "merged"))
        with serve_model(model) as url:
            settings = {"temperature": 0, "max_tokens": _SAMPLE_TOKENS}
            llm = {"model_server": "openai", "model": model, "api_base": url, "generate_cfg": settings}
            for visit in selection_visits(count):
                yield run_visit(visit, llm)


def _merge(checkpoint: Path, target: Path) -> Path:
    """Merge in a process of its own, so that its memory is given back."""
    command = [sys.executable, "-m", "toolweave", "export", "--ckpt_dir", str(checkpoint), "--merge_lora", "true"]
    run_program([*command, "--output_dir", str(target)], lambda: False)
    return target


def _command(folder: Path) -> list[str]:
    return ["sft", "--config", str(folder / _ARGS)]


def _read_log(path: Path) -> tuple[Mapping[str, float], ...]:
    """Return the whole entries of a log that may be written to just now."""
    entries: list[Mapping[str, float]] = []
    for line in path.read_text("utf-8", "replace").splitlines() if path.is_file() else ():
        entry: Any = None
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            entries.append(entry)
    return tuple(entries)
