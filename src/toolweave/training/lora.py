"""LoRA on linear layers at the price of two thin products, in the base model's dtype.

The master weights of the adapter stay in float32 for the optimizer; PEFT names and saves them. Its own
forward pass would compute in float32 and draw a random number for every activation.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners import lora
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolweave.models.packing import linear, multiplies, packed
from toolweave.training.lean import Again

# Frozen weights are packed if both copies of them, one a direction, take no more than this.
_PACKED_BYTES = 2**30


class _Frozen(NamedTuple):
    """The weight [out, in] and bias [out] of a base layer; `forth` and `back` are weight and weight.T, packed."""

    weight: Tensor
    bias: Tensor | None
    forth: Tensor | None = None
    back: Tensor | None = None

    def apply(self, x: Tensor) -> Tensor:
        """Return x @ weight.T + bias."""
        if self.forth is None:
            return nn.functional.linear(x, self.weight, self.bias)
        return linear(x, self.forth, self.bias)

    def apply_back(self, grad: Tensor) -> Tensor:
        """Return grad @ weight."""
        return grad @ self.weight if self.back is None else linear(grad, self.back)


class _LoraProduct(torch.autograd.Function):
    """x @ (weight + b @ a).T + bias; x [..., in], weight and bias of `frozen`, a [r, in], b [out, r].

    `again` computes x for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, again: Again, frozen: _Frozen, a: Tensor, b: Tensor) -> Tensor:
        a, b = a.to(x.dtype), b.to(x.dtype)
        rows = x.reshape(-1, x.shape[-1])
        thin = rows @ a.T
        out = frozen.apply(rows).addmm_(thin, b.T)
        ctx.save_for_backward(a, b, thin, *again.inputs)
        ctx.frozen, ctx.compute = frozen, again.compute
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b, thin, *inputs = ctx.saved_tensors
        rows = ctx.compute(*inputs).flatten(0, -2)
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        thin_grad = grad @ b
        dx = ctx.frozen.apply_back(grad).addmm_(thin_grad, a) if ctx.needs_input_grad[0] else None
        dx = None if dx is None else dx.view(*grads[0].shape[:-1], -1)
        # The products with few rows are faster than those with few columns.
        return dx, None, None, (thin_grad.T @ rows).float(), (thin.T @ grad).T.float()


class LoraLinear(lora.Linear):
    """PEFT's LoRA layer with `_LoraProduct` as its training pass.

    Dropout drops input features of the adapter, drawn once a step for all tokens: a draw per activation would cost more
    than the adapter itself.
    """

    _packed: tuple[Tensor, Tensor] | tuple[()] = ()

    def pack(self) -> None:
        """Keep the frozen weight packed as well, for either direction."""
        weight = cast(nn.Linear, self.get_base_layer()).weight
        self._packed = packed(weight), packed(weight.T)

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
        frozen = _Frozen(base.weight, base.bias, *self._packed)
        return cast(Tensor, _LoraProduct.apply(x, Again.of(x), frozen, a, b * self.scaling[name]))


def add_lora(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """Freeze `model` and put adapters on it as `config` says."""
    config._register_custom_module({nn.Linear: LoraLinear})
    return cast(PeftModel, get_peft_model(model, config))


def pack_frozen(model: nn.Module) -> None:
    """Let the adapted layers of a model in bf16 multiply by packed weights, if there is room for them."""
    layers = [module for module in model.modules() if isinstance(module, LoraLinear)]
    weights = [cast(nn.Linear, layer.get_base_layer()).weight for layer in layers]
    bf16 = all(weight.dtype is torch.bfloat16 and multiplies(weight) for weight in weights)
    if bf16 and 2 * sum(weight.nbytes for weight in weights) <= _PACKED_BYTES:
        for layer in layers:
            layer.pack()
