"""Linear layers with their weights in the layout that oneDNN multiplies fastest.

A plain weight is brought into that layout, or read against it, in every product. For the few tokens of a decoding step
that costs a third of the time in bf16 and half of it in float32, measured on the embedded model with two cores.
Products of bf16 are bit for bit the same; those of float32 were MKL's, and differ by rounding.
"""

from __future__ import annotations

import platform
from collections import Counter
from typing import Any, cast

import torch
from torch import Tensor, nn

_ops: Any = torch.ops.mkldnn


class PackedLinear(nn.Module):
    """An nn.Linear whose weight is packed; the linear layer itself is kept aside, without its weight unless tied."""

    def __init__(self, linear: nn.Linear, *, tied: bool) -> None:
        super().__init__()
        self.bias = linear.bias
        self._packed = _ops._reorder_linear_weight(linear.weight.detach(), None)
        self._aside, self._tied = (linear,), tied  # in a tuple, so that it is no submodule
        if not tied:
            linear.weight.data = linear.weight.new_empty(0)

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out] for x [..., in]."""
        return cast(Tensor, _ops._linear_pointwise(x, self._packed, self.bias, "none", [], ""))

    def unpacked(self) -> nn.Linear:
        """Return the linear layer, whole again."""
        (linear,) = self._aside
        if not self._tied:
            linear.weight.data = self._packed.to_dense()
        return linear


def pack(model: nn.Module) -> None:
    """Pack every linear layer that oneDNN multiplies: on x86 CPUs those of float32, and of bf16 where it is native."""
    if not torch.backends.mkldnn.is_available() or platform.machine().lower() not in ("x86_64", "amd64"):
        return
    kinds = {torch.float32, torch.bfloat16} if _ops._is_mkldnn_bf16_supported() else {torch.float32}
    layers = [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear]
    owners = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))
    for name, linear in layers:
        if linear.weight.device.type == "cpu" and linear.weight.dtype in kinds:
            model.set_submodule(name, PackedLinear(linear, tied=owners[id(linear.weight)] > 1))


def unpack(model: nn.Module) -> None:
    """Undo `pack`; weights are bit for bit what they were."""
    for name, module in list(model.named_modules()):
        if isinstance(module, PackedLinear):
            model.set_submodule(name, module.unpacked())
