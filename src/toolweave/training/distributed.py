"""One process or many: torchrun (DDP), or accelerate's FSDP and DeepSpeed by their config files.

Every process knows all micro-batches, so which are whose, and how many labels a step has, needs no
talk between them; only gradients and a few numbers a step travel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list, gather_object
from peft import PeftModel
from torch import Tensor, nn
from torch.optim import Optimizer

from toolweave.errors import ToolweaveError
from toolweave.training.loss import tree_loss
from toolweave.training.prefix_tree import PrefixTree

# Evaluating by visits keeps the others waiting; a process that died is noticed at once, without a time-out.
_PATIENCE = timedelta(hours=2)
# Groups that were left. Were DDP's reducer the last to hold one, it would end the group's threads with Python's lock in
# its hands, and a thread that still has a tensor to give back would wait for that lock for ever.
_left: list[Any] = []


class _TreeLoss(nn.Module):
    """The loss as a module: what DDP, FSDP and DeepSpeed wrap must be entered through `forward`."""

    def __init__(self, model: PeftModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tree: PrefixTree) -> Tensor:
        return tree_loss(self.model, tree)


class Workers:
    """The processes of a job, seen from one of them. Use `joined()`."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.count: int = accelerator.num_processes
        self.rank: int = accelerator.process_index
        self.is_first = self.rank == 0
        self.device: torch.device = accelerator.device
        self._module: nn.Module | None = None

    def adopt(
        self, model: PeftModel, make: Callable[[Sequence[nn.Parameter]], Optimizer], max_grad_norm: float
    ) -> tuple[nn.Module, Any]:
        """Place the model as the job's configuration says; return the loss module and its optimiser."""
        if deepspeed := self._accelerator.state.deepspeed_plugin:
            deepspeed.deepspeed_config |= {"train_micro_batch_size_per_gpu": 1, "gradient_clipping": max_grad_norm}
        module: nn.Module = _TreeLoss(model)
        optimizer = make([weight for weight in module.parameters() if weight.requires_grad])
        self._module, prepared = self._accelerator.prepare(module, optimizer)
        return cast(nn.Module, self._module), prepared

    def mine(self, batches: Sequence[Any]) -> list[tuple[Any, float]]:
        """Return this process's share of a step's micro-batches, with weight 1.

        All processes get equally many, as their collectives must match: who would go short computes the
        step's first one again, with weight 0.
        """
        rounds = -(-len(batches) // self.count)
        own = [(batch, 1.0) for batch in batches[self.rank :: self.count]]
        return own + [(batches[0], 0.0)] * (rounds - len(own))

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch, in the context that `accumulate` gives.

        DeepSpeed takes the step here, too, when it is the last one.
        """
        # Gradients are averaged over the processes; the loss is a sum.
        cast(Any, self._accelerator.backward)(loss * self.count)

    def accumulate(self, *, last: bool) -> AbstractContextManager[None]:
        """Return the context of a micro-batch's forward and backward pass: gradients are summed with the last one."""
        self._accelerator.sync_gradients = last  # DeepSpeed goes by this
        if last or self.count == 1:
            return nullcontext()
        return cast(AbstractContextManager[None], self._accelerator.no_sync(self._module))

    def clip(self, weights: Sequence[nn.Parameter], limit: float) -> float:
        """Cut the gradients to norm `limit` and return the norm they had."""
        norm = self._accelerator.clip_grad_norm_(weights, limit)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def sum(self, *values: float) -> list[float]:
        """Return the sums of some numbers over all processes."""
        if self.count == 1:
            return list(values)
        total = self._accelerator.reduce(torch.tensor(values, dtype=torch.float64, device=self.device), "sum")
        return cast(list[float], cast(Tensor, total).tolist())

    def agree(self, value: Any) -> Any:
        """Return what the first process says."""
        return broadcast_object_list([value])[0] if self.count > 1 else value

    def gather(self, values: list[Any]) -> list[Any]:
        """Return the values of all processes, in one list."""
        return cast(list[Any], gather_object(values)) if self.count > 1 else values

    def placed(self, tree: PrefixTree) -> PrefixTree:
        """Return the tree with its tensors on this process's device."""
        if self.device.type == "cpu":
            return tree
        moved = {
            name: getattr(tree, name).to(self.device, non_blocking=True)
            for name in ("tokens", "positions", "label_at", "label_target", "label_weight")
        }
        return replace(tree, **moved)

    @contextmanager
    def first_goes_first(self) -> Iterator[None]:
        """Let the first process do something (a download) before the others."""
        with self._accelerator.main_process_first():
            yield


@contextmanager
def joined() -> Iterator[Workers]:
    """Join the job that torchrun or accelerate started, or be alone; leaves it at the end.

    Raises ToolweaveError when another process of the job is gone, and for DeepSpeed's ZeRO stage 3.
    """
    # Without a GPU accelerate joins no job (gloo) unless it is told to use the CPU.
    on_cpu = not torch.accelerator.is_available()
    accelerator = Accelerator(cpu=on_cpu, kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)])
    if (deepspeed := accelerator.state.deepspeed_plugin) and deepspeed.zero_stage == 3:
        raise ToolweaveError(
            "DeepSpeed's ZeRO stage 3 is not supported", "use stage 1 or 2, or FSDP to shard the model"
        )
    workers = Workers(accelerator)
    try:
        yield workers
        # Who is done waits for the one that saves: one that ended right after its last collective was once seen to
        # abort, it seems as gloo's thread gave its tensors back to a Python that was gone.
        accelerator.wait_for_everyone()
    except (RuntimeError, torch.distributed.DistBackendError) as error:
        if workers.count > 1 and _peer_is_gone(error):
            raise ToolweaveError(
                f"process {workers.rank} stops: another process of the job is gone",
                "see its message above, then run the same command with --resume_from_checkpoint auto",
            ) from error
        raise
    finally:
        if workers.count > 1 and torch.distributed.is_initialized():
            _left.append(torch.distributed.group.WORLD)
            torch.distributed.destroy_process_group()


def _peer_is_gone(error: Exception) -> bool:
    text = str(error).lower()
    return any(sign in text for sign in ("connection closed", "connection reset", "peer", "timed out", "nccl"))
