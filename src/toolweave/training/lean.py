"""RMS norms and gated MLPs that keep only their inputs for the backward pass, and compute the rest of it again.

transformers writes both as chains of operations, of which autograd keeps every intermediate result, a norm's in
float32: a fifth of all that waits for the backward pass. What is computed stays the same, but for rounding.
In float32 not even their results are kept for the linear layers that take them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import PreTrainedModel


class Again(NamedTuple):
    """How to compute a tensor once more from tensors that are kept anyway."""

    compute: Callable[..., Tensor]
    inputs: tuple[Tensor, ...]

    @classmethod
    def of(cls, x: Tensor) -> Again:
        """Return how `x` is computed again: if nothing else is known, by keeping it."""
        return getattr(x, _AGAIN, None) or cls(_as_it_is, (x,))


_AGAIN = "toolweave_again"  # of a tensor


def _as_it_is(x: Tensor) -> Tensor:
    return x


class _RmsNorm(torch.autograd.Function):
    """x / rms(x) * weight over the last dimension of x [..., d]; weight [d] is frozen, scale [..., 1] is 1 / rms(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, scale, weight)
        return _scaled(x, scale, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, weight = ctx.saved_tensors
        normed, grad = x.float().mul_(scale), (grads[0] * weight).float()
        along = (grad * normed).mean(-1, keepdim=True)
        return grad.addcmul_(normed, along, value=-1).mul_(scale).to(x.dtype), None, None


class _Gated(torch.autograd.Function):
    """silu(gate) * up, element by element."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return _gated(gate, up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grads[0] * up, gate), silu(gate).mul_(grads[0])


def _scaled(x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    # Straight into the input's dtype: between what is kept, a float32 result would leave holes when it goes.
    return torch.mul(x, scale, out=torch.empty_like(x)).mul_(weight)


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    return silu(gate).mul_(up)


def make_lean(model: PreTrainedModel) -> None:
    """Let every norm and MLP that computes what one here does compute it so; the weights of norms must stay frozen."""
    for module in model.modules():
        parts = dict(module.named_children())
        if isinstance(eps := getattr(module, "variance_epsilon", None), float):
            _replace(module, partial(_normed, module, eps), module)
        elif {"gate_proj", "up_proj", "down_proj"} <= parts.keys():
            _replace(module, partial(_mlp, module), parts["gate_proj"])


def _normed(module: nn.Module, eps: float, x: Tensor) -> Tensor:
    weight = cast(Tensor, module.weight)
    norm = torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True, dtype=torch.float32)
    scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return _not_kept(_RmsNorm.apply(x, scale, weight), _scaled, x, scale, weight)


def _mlp(module: Any, x: Tensor) -> Tensor:
    gate, up = module.gate_proj(x), module.up_proj(x)
    return cast(Tensor, module.down_proj(_not_kept(_Gated.apply(gate, up), _gated, gate, up)))


def _not_kept(out: Tensor, compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Tell the linear layers that take `out` how to compute it again; in bf16 there is room to keep it."""
    if out.dtype is torch.float32:
        setattr(out, _AGAIN, Again(compute, tuple(x.detach() for x in inputs)))
    return out


@torch.no_grad()
def _replace(module: nn.Module, forward: partial[Tensor], first: nn.Module) -> None:
    """Replace the module's forward pass if the new one computes the same; `first` tells the last dimension of x."""
    weight = cast(Tensor, first.weight)
    x = torch.linspace(-3, 3, 2 * weight.shape[-1], device=weight.device, dtype=weight.dtype).view(2, -1)
    wanted, made = module(x), forward(x)
    if made.dtype == wanted.dtype and (made - wanted).norm() <= 4 * torch.finfo(x.dtype).eps * wanted.norm():
        module.forward = forward
