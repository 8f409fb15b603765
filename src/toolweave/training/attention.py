"""Tree attention: a token attends to its ancestors and, causally, to its own node.

Registered with transformers' attention interface, so it serves every model that uses it. The tree
comes as dense blocks: a long node's keys against its own queries and those of all its descendants,
which are one contiguous range; small subtrees, several at once, against themselves. The blocks of a
query are merged by their log-sum-exp. The query heads on one key head are rows of one product, so all
the work is the library's matrix products, and there is no T x T mask.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from toolweave.errors import ModelError
from toolweave.training.prefix_tree import Block, PrefixTree

NAME = "toolweave_tree"
# Attention weights wait for the backward pass while those of all layers fit in here; else they are computed again.
_KEPT_BYTES = 2**29


class _Weighed(NamedTuple):
    """A block's weights [H_kv, rows, L], and the log-sum-exp [H_kv, rows, 1] they are normalised by."""

    weights: Tensor
    lse: Tensor


class _Plan(NamedTuple):
    """What the blocks of a layer need to know."""

    tree: PrefixTree
    scale: float
    window: int | None
    keep: bool


class _TreeAttention(torch.autograd.Function):
    """Attention over a flattened tree: q [1, H, T, D], k and v [1, H_kv, T, D] -> [1, T, H, D]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: _Plan) -> Tensor:
        k, v = k[0].contiguous(), v[0].contiguous()
        groups = q.shape[1] // k.shape[0]
        q = _fold(q[0].unflatten(0, (k.shape[0], groups)).transpose(1, 2) * plan.scale)
        out = torch.zeros_like(q, dtype=torch.float32)
        lse = out.new_full((*q.shape[:2], 1), -torch.inf)
        kept = []
        # A row's blocks come in the order of its path.
        for block in plan.tree.blocks:
            rows = slice(block.start * groups, block.end * groups)
            weighed = _attend(q[:, rows], k, block, groups, plan)
            part = torch.bmm(weighed.weights, v[:, block.start : block.stop])
            merged = torch.logaddexp(lse[:, rows], weighed.lse)
            out[:, rows] *= torch.exp(lse[:, rows] - merged)
            out[:, rows] += part * torch.exp(weighed.lse - merged)
            lse[:, rows] = merged
            kept.append(weighed if plan.keep else None)
        merged_out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, merged_out, lse)
        ctx.plan, ctx.kept, ctx.groups = plan, kept, groups
        return _by_token(merged_out, groups).unsqueeze(0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        plan, groups = cast(_Plan, ctx.plan), cast(int, ctx.groups)
        grad = _fold(grads[0][0].unflatten(1, (-1, groups)).transpose(0, 1))
        dot = (grad.float() * out).sum(-1, keepdim=True)
        dq = torch.zeros_like(q, dtype=torch.float32)
        dk, dv = torch.empty_like(k), torch.empty_like(v)
        for block, kept in zip(plan.tree.blocks, ctx.kept, strict=True):
            own, rows = slice(block.start, block.stop), slice(block.start * groups, block.end * groups)
            weights, their_lse = kept or _weigh_again(q[:, rows], k, lse[:, rows], block, groups, plan)
            # What makes them the weights in the whole.
            share = torch.exp(their_lse - lse[:, rows])
            g = grad[:, rows] * share.to(q.dtype)
            dv[:, own] = torch.bmm(weights.transpose(1, 2), g)
            # In the dtype of the scores: a mixed one would be a pass over them more.
            ds = torch.baddbmm((-dot[:, rows] * share).to(q.dtype), g, v[:, own].transpose(1, 2)).mul_(weights)
            dq[:, rows] += torch.bmm(ds, k[:, own])
            dk[:, own] = torch.bmm(ds.transpose(1, 2), q[:, rows])
        dq = (dq * plan.scale).to(q.dtype).unflatten(1, (-1, groups)).transpose(1, 2).flatten(0, 1)
        return dq.unsqueeze(0), dk.unsqueeze(0), dv.unsqueeze(0), None


def _by_token(x: Tensor, groups: int) -> Tensor:
    """Undo `_fold`, tokens first: [H_kv, T * G, D] -> [T, H, D]."""
    heads, rows, dim = x.shape
    return x.view(heads, rows // groups, groups, dim).transpose(0, 1).reshape(rows // groups, heads * groups, dim)


def _fold(x: Tensor) -> Tensor:
    """Make the query heads of a group rows: [H_kv, T, G, D] -> contiguous [H_kv, T * G, D]."""
    return x.flatten(1, 2).contiguous()


def _attend(q: Tensor, k: Tensor, block: Block, groups: int, plan: _Plan) -> _Weighed:
    """Weigh the block's keys for its queries, q [H_kv, (end - start) * G, D]."""
    scores = _hide(torch.bmm(q, k[:, block.start : block.stop].transpose(1, 2)), block, groups, plan)
    highest = _highest(scores).float()
    # Computed in float32 inside, whatever the dtype of the scores.
    weights = scores.softmax(-1)
    # The highest weight is exp(0) / sum(exp(scores - highest)).
    return _Weighed(weights, highest - _highest(weights).float().log())


def _weigh_again(q: Tensor, k: Tensor, lse: Tensor, block: Block, groups: int, plan: _Plan) -> _Weighed:
    """Weigh the block's keys among all the keys of a query, whose log-sum-exp is known: no need of a softmax."""
    rounded = lse.to(q.dtype)
    scores = torch.baddbmm(-rounded, q, k[:, block.start : block.stop].transpose(1, 2))
    return _Weighed(_hide(scores, block, groups, plan).exp_(), rounded.float())


def _hide(scores: Tensor, block: Block, groups: int, plan: _Plan) -> Tensor:
    """Mask, in place, the keys that a query of the block must not see."""
    by_token = scores.unflatten(1, (-1, groups))
    # Finite, so that a row with all of a block's keys outside its window has a log-sum-exp; its share is then 0.
    masked = torch.finfo(scores.dtype).min / 2
    by_token[:, : block.stop - block.start].masked_fill_(block.hidden.unsqueeze(1).to(scores.device), masked)
    if plan.window is not None:
        positions = plan.tree.positions
        distance = positions[block.start : block.end, None] - positions[block.start : block.stop]
        by_token.masked_fill_((distance >= plan.window).unsqueeze(1).to(scores.device), masked)
    return scores


def _highest(x: Tensor) -> Tensor:
    """Return `x.amax(-1, keepdim=True)`.

    Torch reduces 16-bit integers ten times faster than bf16, and within a sign the bits of a float are in its order:
    forwards for positive numbers, backwards for negative ones.
    """
    if x.element_size() != 2 or x.device.type != "cpu":
        return x.amax(-1, keepdim=True)
    bits = x.view(torch.int16)
    top = bits.amax(-1, keepdim=True)
    return torch.where(top >= 0, top, bits.amin(-1, keepdim=True)).view(x.dtype)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    tree: PrefixTree,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Transformers attention function; `tree` travels through the model's keyword arguments.

    Takes query [1, H, T, D], key and value [1, H_kv, T, D], returns [1, T, H, D]. Raises ModelError for
    capped scores and attention sinks.
    """
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise ModelError("models with capped attention scores or attention sinks cannot be trained on prefix trees")
    depth = int(tree.positions.max()) + 1
    layers = getattr(getattr(module, "config", None), "num_hidden_layers", 1)
    pairs = sum((block.end - block.start) * (block.stop - block.start) for block in tree.blocks)
    plan = _Plan(
        tree,
        scaling if scaling is not None else query.shape[-1] ** -0.5,
        sliding_window if sliding_window is not None and sliding_window < depth else None,
        keep=torch.is_grad_enabled() and layers * query.shape[1] * pairs * query.element_size() <= _KEPT_BYTES,
    )
    out = cast(Tensor, _TreeAttention.apply(query, key, value, plan))  # type: ignore[no-untyped-call]  # torch
    return out, None


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
