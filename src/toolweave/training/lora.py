"""LoRA on linear layers at the price of two thin products, in the base model's dtype.

The master weights of the adapter stay in float32 for the optimizer; PEFT names and saves them. Its own
forward pass would compute in float32 and draw a random number for every activation.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners import lora
from torch import Tensor, nn
from transformers import PreTrainedModel


class _LoraProduct(torch.autograd.Function):
    """x @ (weight + b @ a).T + bias; x [..., in], weight [out, in] and bias [out] frozen, a [r, in], b [out, r]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        rows = x.reshape(-1, x.shape[-1])
        thin = rows @ a.T
        out = nn.functional.linear(rows, weight, bias).addmm_(thin, b.T)
        ctx.save_for_backward(rows, weight, a, b, thin)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, a, b, thin = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        thin_grad = grad @ b
        dx = (grad @ weight).addmm_(thin_grad, a) if ctx.needs_input_grad[0] else None
        dx = None if dx is None else dx.view(*grads[0].shape[:-1], -1)
        return dx, None, None, (thin_grad.T @ rows).float(), (grad.T @ thin).float()


class LoraLinear(lora.Linear):
    """PEFT's LoRA layer with `_LoraProduct` as its training pass.

    Dropout drops input features of the adapter, drawn once a step for all tokens: a draw per activation would cost more
    than the adapter itself.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the layer's output [..., out] for x [..., in]."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1 or self.lora_variant:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        a, b = (cast(nn.Linear, layers[name]).weight for layers in (self.lora_A, self.lora_B))
        dropout = self.lora_dropout[name]
        if isinstance(dropout, nn.Dropout) and self.training:
            a = a * nn.functional.dropout(torch.ones_like(a[0]), dropout.p)
        base = cast(nn.Linear, self.get_base_layer())
        return cast(Tensor, _LoraProduct.apply(x, base.weight, base.bias, a, b * self.scaling[name]))  # type: ignore[no-untyped-call]  # torch


def add_lora(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Freeze `model` and put adapters on it as `config` says."""
    config._register_custom_module({nn.Linear: LoraLinear})
    return cast(PeftModel, get_peft_model(model, config))
