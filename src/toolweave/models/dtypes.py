"""In what models compute. Imports no more than torch."""

from __future__ import annotations

import torch


def best_dtype() -> torch.dtype:
    """Return bf16 where the hardware multiplies it fast, else fp16 on a GPU and fp32 on a CPU.

    A CPU without AMX or AVX512-BF16 emulates bf16 ten times and more slower than it runs fp32.
    """
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def named_dtype(name: str) -> torch.dtype:
    """Return what bf16, fp16 or fp32 stands for; any other name leaves it to the hardware."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}.get(name) or best_dtype()
