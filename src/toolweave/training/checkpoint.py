"""Checkpoints that are whole or not there, and from which a run goes on exactly as if never stopped.

A checkpoint is the adapter as it can be merged, and what training needs beyond it: trained weights
and optimiser as plain tensors (`training.safetensors`, no pickle), and `training.json`. Nothing else has
state: order, learning rate and dropout are functions of the seed and the step.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from toolweave.errors import ModelError
from toolweave.training.layout import checkpoints
from toolweave.training.progress import Progress
from toolweave.weights.manifest import broken, remove_drafts, replace_folder, restore_folders, seal

_TENSORS = "training.safetensors"
_console = Console(stderr=True)


class Checkpoints:
    """The checkpoints of one run folder. Only rank 0 writes; `limit` keeps that many, and the best."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self.folder, self._limit = folder, limit

    def path(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.folder / f"checkpoint-{step}"

    def save(self, progress: Progress, tensors: Mapping[str, Tensor], write_adapter: Callable[[Path], None]) -> Path:
        """Write a checkpoint, whole or not at all, then remove old ones. Raises ModelError on a full disk."""
        target = self.path(progress.step)
        with replace_folder(target) as draft:
            write_adapter(draft)
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft / _TENSORS)
            progress.save(draft)
            seal(draft)
        self._rotate(progress)
        return target

    def newest(self, identity: Mapping[str, Any], only: Path | None = None) -> Progress | None:
        """Return the progress of the newest complete checkpoint, or of `only`; None when there is none at all.

        Raises ModelError when all are incomplete, `only` is none of them, or the run was started with other
        choices or data.
        """
        restore_folders(self.folder)
        found = checkpoints(self.folder)
        if only is not None:
            found = {step: path for step, path in found.items() if path.resolve() == only.resolve()}
            if not found:
                raise ModelError(f"{only} is no checkpoint of {self.folder}", "give a checkpoint-N folder of this run")
        for step in sorted(found, reverse=True):
            reason = broken(found[step])
            if reason:
                _console.print(f"{found[step]} is left aside: {reason}", style="yellow", soft_wrap=True)
                continue
            progress = Progress.read(found[step])
            _check_identity(progress.identity, identity, found[step])
            return progress
        if found:
            raise ModelError(
                f"no checkpoint of {only or self.folder} is complete",
                "start anew in another --output_dir; nothing was deleted",
            )
        return None

    def tensors(self, step: int) -> dict[str, Tensor]:
        """Return weights and optimiser of a checkpoint. Raises ModelError when they cannot be read."""
        try:
            return load_file(self.path(step) / _TENSORS)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot read {self.path(step) / _TENSORS}: {error}") from error

    def clean(self) -> None:
        """Remove unfinished drafts that a killed process left behind."""
        remove_drafts(self.folder)

    def _rotate(self, progress: Progress) -> None:
        if self._limit is None:
            return
        kept = {progress.step, progress.best.step if progress.best else progress.step}
        old = [step for step in checkpoints(self.folder) if step < progress.step]
        for step in old[: max(0, len(old) + 1 - self._limit)]:
            if step not in kept:
                # Renamed first, so that what a kill leaves is a draft and never half a checkpoint.
                with _aside(self.path(step)) as doomed:
                    shutil.rmtree(doomed)


def collect(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """Return trained weights and optimiser state by name, on the CPU; sharded tensors are gathered by all ranks."""
    tensors: dict[str, Tensor] = {}
    for name, weight in _trained(model):
        value, state = _from_zero(weight, optimizer) or (weight, optimizer.state.get(weight, {}))
        tensors[f"weight:{name}"] = _whole(value)
        for key, moment in state.items():
            tensors[f"optimizer:{key}:{name}"] = _whole(torch.as_tensor(moment))
    return tensors


def restore(model: nn.Module, optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `collect` returned. Raises ModelError when it belongs to another adapter, or in a DeepSpeed job."""
    trained = dict(_trained(model))
    if any(_is_in_zero(weight) for weight in trained.values()):
        raise ModelError(
            "a DeepSpeed job cannot go on from a checkpoint",
            "go on under torchrun, or FSDP, which take the same checkpoints",
        )
    saved = {name.removeprefix("weight:") for name in tensors if name.startswith("weight:")}
    if saved != set(trained):
        raise ModelError("the checkpoint belongs to an adapter of other layers", "resume with the recipe it began with")
    with torch.no_grad():
        for name, weight in trained.items():
            weight.copy_(_like(tensors[f"weight:{name}"], weight))
    for entry, value in tensors.items():
        kind, _, rest = entry.partition(":")
        if kind == "optimizer":
            key, _, name = rest.partition(":")
            weight = trained[name]
            optimizer.state[weight][key] = _like(value, weight) if value.shape == weight.shape else value.clone()


def _is_in_zero(weight: nn.Parameter) -> bool:
    return hasattr(weight, "_hp_mapping")


def _from_zero(weight: nn.Parameter, optimizer: Optimizer) -> tuple[Tensor, dict[str, Any]] | None:
    """Return a weight and Adam's state for it, put together from DeepSpeed ZeRO's shards; None without ZeRO."""
    if not _is_in_zero(weight):
        return None
    utils: Any = import_module("deepspeed.utils")  # who starts a job with DeepSpeed has it
    moments = {key: utils.safe_get_full_optimizer_state(weight, key) for key in ("exp_avg", "exp_avg_sq")}
    steps = next(state["step"] for state in optimizer.state.values() if "step" in state)
    return utils.safe_get_full_fp32_param(weight), {**moments, "step": steps}


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def _whole(tensor: Tensor) -> Tensor:
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu().clone()


def _like(value: Tensor, weight: Tensor) -> Tensor:
    """Return `value` on the device, and in the shards, of `weight`."""
    if isinstance(weight, DTensor):
        return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)
    return value.to(weight.device, copy=True)


def _check_identity(old: Mapping[str, Any], new: Mapping[str, Any], where: Path) -> None:
    changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if changed:
        told = "; ".join(f"{name} was {old.get(name)!r} and is {new.get(name)!r}" for name in changed)
        raise ModelError(
            f"{where} was trained otherwise: {told}",
            "go on with the same data and recipe, or start anew in another --output_dir; nothing was deleted",
        )


@contextmanager
def _aside(folder: Path) -> Iterator[Path]:
    doomed = folder.with_name(f".{folder.name}-old.draft")
    folder.rename(doomed)
    yield doomed
