"""Tree attention: a token attends to its ancestors and, causally, to its own node.

Registered with transformers' attention interface, so it serves every model that uses it. Each node
is a causal block over itself and one unmasked block from all its descendants to it; the blocks'
results are merged by their log-sum-exp. The backward pass of each block takes the *merged* output
and log-sum-exp, from which the library kernel derives that block's exact share of the gradient.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from toolweave.training.prefix_tree import PrefixTree

NAME = "toolweave_tree"
_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class _TreeAttention(torch.autograd.Function):
    """Attention over a flattened tree: q [1, H, T, D], k and v [1, H_kv, T, D] -> [1, H, T, D]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, tree: PrefixTree, scale: float) -> Tensor:
        kv_heads, groups = k.shape[1], q.shape[1] // k.shape[1]
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out = torch.empty_like(q, dtype=torch.float32)
        lse = torch.empty(q.shape[:3], dtype=torch.float32)
        for node in tree.nodes:
            own = slice(node.start, node.stop)
            part, part_lse = _flash(q[:, :, own], k[:, :, own], v[:, :, own], 0.0, True, scale=scale)
            out[:, :, own], lse[:, :, own] = part, part_lse
        for node in tree.nodes:
            if node.end == node.stop:
                continue
            own, below = slice(node.start, node.stop), slice(node.stop, node.end)
            part, part_lse = _flash(
                _fold(q[:, :, below], kv_heads), k[:, :, own], v[:, :, own], 0.0, False, scale=scale
            )
            part = part.reshape(1, kv_heads * groups, -1, q.shape[-1])
            part_lse = part_lse.reshape(1, kv_heads * groups, -1)
            share = torch.sigmoid(part_lse - lse[:, :, below]).unsqueeze(-1)
            out[:, :, below].lerp_(part.float(), share)
            lse[:, :, below] = torch.logaddexp(lse[:, :, below], part_lse)
        merged = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, merged, lse)
        ctx.tree, ctx.scale = tree, scale
        return merged

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        q, k, v, out, lse = ctx.saved_tensors
        kv_heads, groups, dim = k.shape[1], q.shape[1] // k.shape[1], q.shape[-1]
        grad = grad.contiguous()
        dq, dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (q, k, v))

        for node in ctx.tree.nodes:
            own, below = slice(node.start, node.stop), slice(node.stop, node.end)
            # The kernel's backward wants as many key as query heads: repeat, then sum over the group.
            wide_k, wide_v = (x[:, :, own].repeat_interleave(groups, 1) for x in (k, v))
            gq, gk, gv = _flash_backward(
                grad[:, :, own], q[:, :, own], wide_k, wide_v, out[:, :, own], lse[:, :, own], 0.0, True,
                scale=ctx.scale,
            )  # fmt: skip
            dq[:, :, own] += gq
            dk[:, :, own] += gk.reshape(1, kv_heads, groups, -1, dim).sum(2)
            dv[:, :, own] += gv.reshape(1, kv_heads, groups, -1, dim).sum(2)
            if node.end == node.stop:
                continue
            gq, gk, gv = _flash_backward(
                _fold(grad[:, :, below], kv_heads), _fold(q[:, :, below], kv_heads), k[:, :, own], v[:, :, own],
                _fold(out[:, :, below], kv_heads), _fold(lse[:, :, below], kv_heads), 0.0, False, scale=ctx.scale,
            )  # fmt: skip
            dq[:, :, below] += gq.reshape(1, kv_heads * groups, -1, dim)
            dk[:, :, own] += gk
            dv[:, :, own] += gv
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None


def _fold(x: Tensor, kv_heads: int) -> Tensor:
    """Fold the query heads of a group into rows: [1, H, T, ...] -> [1, H_kv, H / H_kv * T, ...]."""
    return x.reshape(1, kv_heads, -1, *x.shape[3:])


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: PrefixTree,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers attention function; `tree` travels through the model's keyword arguments."""
    window = kwargs.get("sliding_window")
    if window is not None and window < int(tree.positions.max()) + 1:
        raise ValueError(f"a sliding window of {window} tokens is shorter than the samples")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    out = cast(Tensor, _TreeAttention.apply(query, key, value, tree, scale))  # type: ignore[no-untyped-call]  # torch
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
