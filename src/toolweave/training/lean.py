"""RMS norms and gated MLPs that keep only their inputs for the backward pass, and compute the rest of it again.

transformers writes both as chains of operations, of which autograd keeps every intermediate result, a norm's in
float32: a fifth of all that waits for the backward pass. What is computed stays the same, but for rounding.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import PreTrainedModel


class _RmsNorm(torch.autograd.Function):
    """x / rms(x) * weight over the last dimension of x [..., d]; weight [d] is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        # Straight into the input's dtype: between what is kept, a float32 result would leave holes when it goes.
        return torch.mul(x, scale, out=torch.empty_like(x)).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        normed, grad = x.float().mul_(scale), (grads[0] * weight).float()
        along = (grad * normed).mean(-1, keepdim=True)
        return grad.addcmul_(normed, along, value=-1).mul_(scale).to(x.dtype), None, None


class _Gated(torch.autograd.Function):
    """silu(gate) * up, element by element."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grads[0] * up, gate), silu(gate).mul_(grads[0])


def make_lean(model: PreTrainedModel) -> None:
    """Let every norm and MLP that computes what one here does compute it so; the weights of norms must stay frozen."""
    for module in model.modules():
        parts = dict(module.named_children())
        if isinstance(eps := getattr(module, "variance_epsilon", None), float):
            _replace(module, partial(_normed, module, eps), module)
        elif {"gate_proj", "up_proj", "down_proj"} <= parts.keys():
            _replace(module, partial(_mlp, module), parts["gate_proj"])


def _normed(module: nn.Module, eps: float, x: Tensor) -> Tensor:
    return cast(Tensor, _RmsNorm.apply(x, module.weight, eps))


def _mlp(module: Any, x: Tensor) -> Tensor:
    return cast(Tensor, module.down_proj(_Gated.apply(module.gate_proj(x), module.up_proj(x))))


@torch.no_grad()
def _replace(module: nn.Module, forward: partial[Tensor], first: nn.Module) -> None:
    """Replace the module's forward pass if the new one computes the same; `first` tells the last dimension of x."""
    weight = cast(Tensor, first.weight)
    x = torch.linspace(-3, 3, 2 * weight.shape[-1], device=weight.device, dtype=weight.dtype).view(2, -1)
    wanted, made = module(x), forward(x)
    if made.dtype == wanted.dtype and (made - wanted).norm() <= 4 * torch.finfo(x.dtype).eps * wanted.norm():
        module.forward = forward
