"""Attention of one engine step: a flat batch of tokens of many requests, each after its own past.

Requests that get one token each are attended to together; a piece of a prompt is attended to by itself.
Registered with transformers' attention interface, so it serves every model that uses it.
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


@dataclass(frozen=True, slots=True)
class Step:
    """What the tokens of one forward pass attend to.

    `rows` and `places` [T] say where each token's key and value go. `prompts` are the segments of more
    than one token; the tokens [n] at `decoded` are alone in their rows, and `mask` [slots, 1, 1, L] hides
    from each slot what is not of its request.
    """

    cache: SlotCache
    rows: Tensor
    places: Tensor
    prompts: tuple[Segment, ...]
    decoded: Tensor
    mask: Tensor

    @classmethod
    def of(cls, cache: SlotCache, segments: list[Segment]) -> Step:
        """Make room in the cache for the segments' tokens, and prepare their step."""
        device, dtype = cache.layers[0].device, cache.layers[0].dtype
        rows = [segment.row for segment in segments for _ in range(segment.start, segment.stop)]
        places = [place for s in segments for place in range(s.past, s.past + s.stop - s.start)]
        cache.reserve(max(places) + 1)
        alone = [segment for segment in segments if segment.stop - segment.start == 1]
        length = max((segment.past for segment in alone), default=0) + 1
        newest = torch.zeros(max((segment.row for segment in alone), default=-1) + 1, dtype=torch.long)
        newest[[segment.row for segment in alone]] = torch.tensor([segment.past for segment in alone], dtype=torch.long)
        hidden = torch.arange(length) > newest[:, None, None, None]
        return cls(
            cache,
            torch.tensor(rows, device=device),
            torch.tensor(places, device=device),
            tuple(segment for segment in segments if segment.stop - segment.start > 1),
            torch.tensor([segment.start for segment in alone], dtype=torch.long, device=device),
            torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf).to(device),
        )


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
    out = torch.empty_like(q)
    if len(step.decoded):
        out[step.decoded] = _decode(q[step.decoded], step, keys, values, scale)
    for row, start, stop, past in step.prompts:
        own = slice(start, stop)
        part, lse = _causal(q[own], key[:, :, own], value[:, :, own], scale)
        if past:
            earlier, earlier_lse = _after(q[own], keys[row, :, :past], values[row, :, :past], scale)
            part.lerp_(earlier, torch.sigmoid(earlier_lse - lse).unsqueeze(-1))
        out[own] = part
    return out.unsqueeze(0), None


def _decode(q: Tensor, step: Step, keys: Tensor, values: Tensor, scale: float) -> Tensor:
    """One token a row, q [n, H, D]: all slots at once as they lie in the cache, those without a token for nothing."""
    slots, length = step.mask.shape[0], step.mask.shape[-1]
    rows = step.rows[step.decoded]
    # The query heads of a group become rows, so that no key is copied.
    folded = q.new_zeros((slots, keys.shape[1], q.shape[1] // keys.shape[1], q.shape[2]))
    folded[rows] = q.view(len(q), *folded.shape[1:])
    out, _ = _attend(folded, keys[:slots, :, :length], values[:slots, :, :length], scale, mask=step.mask)
    return out[rows].view(q.shape).to(q.dtype)


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


AttentionInterface.register(NAME, step_attention)
