"""Weights in the layout that oneDNN multiplies fastest.

A plain weight is brought into that layout, or read against it, in every product. Products of bf16 are bit for bit the
same; those of float32 were MKL's, and differ by rounding.
"""

from __future__ import annotations

import platform
from typing import Any, cast

import torch
from torch import Tensor

_ops: Any = torch.ops.mkldnn


def multiplies(weight: Tensor) -> bool:
    """Tell whether oneDNN multiplies such a weight: on x86 CPUs float32, and bf16 where it is native."""
    if not torch.backends.mkldnn.is_available() or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    kinds = {torch.float32, torch.bfloat16} if _ops._is_mkldnn_bf16_supported() else {torch.float32}
    return weight.device.type == "cpu" and weight.dtype in kinds


def packed(weight: Tensor) -> Tensor:
    """Return a weight [out, in] in oneDNN's layout; `to_dense()` gives it back, bit for bit."""
    return cast(Tensor, _ops._reorder_linear_weight(weight.detach().contiguous(), None))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x [..., in] times a packed weight [out, in], plus bias [out]."""
    return cast(Tensor, _ops._linear_pointwise(x, weight, bias, "none", [], ""))
