"""Keys and values of the running requests: one row a request, preallocated, grown geometrically."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedConfig

_FIRST_LENGTH = 128


class SlotCache:
    """Per layer one buffer [2, slots, kv_heads, length, head_dim] for keys and values.

    The engine keeps running requests in rows 0..n-1 and says how much of each row is in use. Buffers
    hold finite numbers everywhere, so that masked positions never spoil a sum.
    """

    def __init__(
        self, config: PreTrainedConfig, slots: int, max_length: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.kv_heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        self.head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.length = min(_FIRST_LENGTH, max_length)
        self._max_length = max_length
        shape = (2, slots, self.kv_heads, self.length, self.head_dim)
        self.layers = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(config.num_hidden_layers)]

    def reserve(self, length: int) -> None:
        """Make every row hold at least `length` tokens."""
        if length <= self.length:
            return
        old, self.length = self.length, min(self._max_length, max(length, 2 * self.length))
        for index, layer in enumerate(self.layers):
            self.layers[index] = layer.new_zeros((*layer.shape[:3], self.length, self.head_dim))
            self.layers[index][:, :, :, :old] = layer

    def write(self, layer: int, rows: Tensor, places: Tensor, key: Tensor, value: Tensor) -> None:
        """Store token i of key and value [1, kv_heads, T, D] in row `rows[i]` at place `places[i]`."""
        buffer = self.layers[layer]
        buffer[0, rows, :, places] = key[0].transpose(0, 1)
        buffer[1, rows, :, places] = value[0].transpose(0, 1)

    def read(self, row: int, start: int, stop: int) -> Tensor:
        """Return a copy of a part of a row: [layers, 2, kv_heads, stop - start, head_dim]."""
        return torch.stack([layer[:, row, :, start:stop] for layer in self.layers])

    def load(self, row: int, start: int, kv: Tensor) -> None:
        """Copy what `read` returned into a row, from `start` on."""
        self.reserve(start + kv.shape[3])
        for layer, part in zip(self.layers, kv, strict=True):
            layer[:, row, :, start : start + kv.shape[3]] = part

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of a row to another row."""
        for layer in self.layers:
            layer[:, target, :, :length] = layer[:, source, :, :length]
