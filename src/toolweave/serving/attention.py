"""Attention of one engine step: a flat batch of tokens of many requests, each after its own past.

The past of a token is the shared prefixes its request refers to and the request's own row in the
slot cache. A shared prefix is read once for all requests on it; the parts are merged by their
log-sum-exp. Registered with transformers' attention interface, so it serves every model that uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from toolweave.errors import ModelError
from toolweave.serving.kv_cache import SlotCache

NAME = "toolweave_serving"
_flash_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


class Segment(NamedTuple):
    """Tokens start..stop of the flat batch, which go to `row` after the `past` tokens it holds."""

    row: int
    start: int
    stop: int
    past: int


class Shared(NamedTuple):
    """A prefix [layers, 2, kv_heads, L, D] and the tokens [n] of the flat batch that come after it."""

    kv: Tensor
    tokens: Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """What the tokens of one forward pass attend to.

    `rows` and `places` [T] say where each token's key and value go. `mask` [rows, 1, 1, L] is there
    only when every row gets exactly one token: then all rows are attended to at once.
    """

    cache: SlotCache
    rows: Tensor
    places: Tensor
    segments: tuple[Segment, ...]
    shared: tuple[Shared, ...]
    mask: Tensor | None


def step_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    step: Step,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers attention function; `step` travels through the model's keyword arguments.

    Takes query [1, H, T, D], key and value [1, H_kv, T, D], returns [1, T, H, D].
    """
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise ModelError("models with capped attention scores or attention sinks cannot be served")
    layer = cast(int, module.layer_idx)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    step.cache.write(layer, step.rows, step.places, key, value)
    keys, values = step.cache.layers[layer]
    q = query[0].transpose(0, 1)
    if step.mask is not None:
        out, lse = _decode(q, keys, values, step.mask, scale)
    else:
        out, lse = q.new_empty(q.shape, dtype=torch.float32), q.new_empty(q.shape[:2], dtype=torch.float32)
        for row, start, stop, past in step.segments:
            own = slice(start, stop)
            if stop - start == 1:
                part, part_lse = _after(q[own], keys[row, :, : past + 1], values[row, :, : past + 1], scale)
            else:
                part, part_lse = _causal(q[own], key[:, :, own], value[:, :, own], scale)
                if past:
                    _merge(part, part_lse, *_after(q[own], keys[row, :, :past], values[row, :, :past], scale))
            out[own], lse[own] = part, part_lse
    for kv, tokens in step.shared:
        part, part_lse = out[tokens], lse[tokens]
        _merge(part, part_lse, *_after(q[tokens], kv[layer, 0], kv[layer, 1], scale))
        out[tokens], lse[tokens] = part, part_lse
    return out.to(query.dtype).unsqueeze(0), None


def _decode(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """One token a row: fold the query heads of a group into rows, so that no key is copied."""
    rows, length = mask.shape[0], mask.shape[-1]
    folded = q.reshape(rows, keys.shape[1], -1, q.shape[-1])
    o, lse = _attend(folded, keys[:rows, :, :length], values[:rows, :, :length], scale, mask=mask)
    return o.reshape(q.shape), lse.reshape(q.shape[:2])


def _after(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Tokens q [T, H, D] that see all of k and v [H_kv, L, D]."""
    count, heads, dim = q.shape
    groups = heads // k.shape[0]
    folded = q.reshape(count, -1, groups, dim).transpose(0, 1).reshape(1, -1, count * groups, dim)
    o, lse = _attend(folded, k.unsqueeze(0), v.unsqueeze(0), scale)
    o = o.reshape(-1, count, groups, dim).transpose(0, 1).reshape(q.shape)
    return o, lse.reshape(-1, count, groups).transpose(0, 1).reshape(count, heads)


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Tokens q [T, H, D] over their own keys and values [1, H_kv, T, D], each up to itself."""
    o, lse = _attend(q.transpose(0, 1).unsqueeze(0), k, v, scale, causal=True)
    return o[0].transpose(0, 1).contiguous(), lse[0].transpose(0, 1).contiguous()


def _attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *, mask: Tensor | None = None, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Return attention output and log-sum-exp, both in float32."""
    if q.device.type == "cpu":
        o, lse = _flash_cpu(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)
        return o.float(), lse.float()
    groups = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(groups, 1).float() for x in (k, v))
    scores = q.float() @ k.transpose(2, 3) * scale
    if mask is not None:
        scores = scores + mask
    if causal:
        ahead = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(ahead, -torch.inf)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)


def _merge(out: Tensor, lse: Tensor, part: Tensor, part_lse: Tensor) -> None:
    """Merge attention over further keys into `out` [T, H, D] and `lse` [T, H], in place."""
    out.lerp_(part, torch.sigmoid(part_lse - lse).unsqueeze(-1))
    torch.logaddexp(lse, part_lse, out=lse)


AttentionInterface.register(NAME, step_attention)
