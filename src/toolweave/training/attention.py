"""Tree attention: a token attends to its ancestors and, causally, to its own node.

Registered with transformers' attention interface, so it serves every model that uses it. The tree
comes as dense blocks: a long node's keys against its own queries and those of all its descendants,
which are one contiguous range; small subtrees, several at once, against themselves. The query heads
on one key head are rows of one product, so all the work is the library's matrix products, and there is
no T x T mask.

Softmax may take any constant off a query's scores. With one that is known before the scores are, the
weights of all blocks are plain exponentials, and simply add up. The score of the root, which every
token sees, keeps them in range as a rule; where it does not, the highest score does.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from toolweave.errors import ModelError
from toolweave.training.prefix_tree import Block, PrefixTree

NAME = "toolweave_tree"
# So many bytes of attention weights are kept for the backward pass, the lowest layers'; the others are computed again.
_KEPT_BYTES = 2**30


class _Plan(NamedTuple):
    """What the blocks of a layer need to know; `groups` query heads share a key head."""

    tree: PrefixTree
    groups: int
    scale: float
    window: int | None
    keeps_weights: bool

    def rows(self, block: Block) -> slice:
        """Return the rows of the block's queries."""
        return slice(block.start * self.groups, block.end * self.groups)


class _Sums(NamedTuple):
    """Weighted values [H_kv, rows, D] and the sums of their weights [H_kv, rows, 1], in float32."""

    values: Tensor
    weights: Tensor


class _TreeAttention(torch.autograd.Function):
    """Attention over a flattened tree: q [1, H, T, D], k and v [1, H_kv, T, D] -> [1, T, H, D]."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: _Plan) -> Tensor:
        q = _fold(q[0].unflatten(0, (-1, plan.groups)).transpose(1, 2) * plan.scale)
        k, v = k[0].contiguous(), v[0].contiguous()
        queries, keys = _with_constant(q, -_root_scores(q, k, plan)), _with_ones(k)
        sums, weights = _weigh(queries, keys, v, plan)
        bound = torch.finfo(q.dtype).max ** 0.5
        if not (sums.weights.min() > 1 / bound and sums.weights.max() < bound):
            queries = _with_constant(q, -_highest_scores(q, k, plan))
            sums, weights = _weigh(queries, keys, v, plan)
        out = _by_token((sums.values / sums.weights).to(q.dtype), plan.groups).unsqueeze(0)
        ctx.save_for_backward(queries, keys, v, out, sums.weights, *weights)
        ctx.plan = plan
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, v, out, total, *kept = ctx.saved_tensors
        plan, size = cast(_Plan, ctx.plan), v.shape[-1]
        q, k, values = queries[..., :size].contiguous(), keys[..., :size].contiguous(), _with_ones(v)
        # Divided by the sums here, once, rather than the weights of every block.
        grad = _by_head(grads[0][0], plan.groups) / total
        dot = (grad * _by_head(out[0], plan.groups)).sum(-1, keepdim=True)
        grad = grad.to(q.dtype)
        grad_and_dot = _with_constant(grad, -dot)
        dq = torch.zeros_like(q, dtype=torch.float32)
        dk, dv = torch.empty_like(k), torch.empty_like(v)
        for number, block in enumerate(plan.tree.blocks):
            own, rows = slice(block.start, block.stop), plan.rows(block)
            weights = kept[number] if kept else _scores(queries, keys, block, plan).exp_()
            dv[:, own] = _products(weights.transpose(1, 2), grad[:, rows])
            ds = _products(grad_and_dot[:, rows], values[:, own].transpose(1, 2)).mul_(weights)
            dq[:, rows] += _products(ds, k[:, own])
            dk[:, own] = _products(ds.transpose(1, 2), q[:, rows])
        dq = (dq * plan.scale).to(q.dtype).unflatten(1, (-1, plan.groups)).transpose(1, 2).flatten(0, 1)
        return dq.unsqueeze(0), dk.unsqueeze(0), dv.unsqueeze(0), None


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Return a [n, p, q] times b [n, q, r]; those of float32 one by one, a fifth faster than MKL's batches."""
    if a.dtype is not torch.float32 or a.device.type != "cpu":
        return torch.bmm(a, b)
    out = a.new_empty((*a.shape[:2], b.shape[2]))
    for left, right, made in zip(a, b, out, strict=True):
        torch.mm(left, right, out=made)
    return out


def _fold(x: Tensor) -> Tensor:
    """Make the query heads of a group rows: [H_kv, T, G, D] -> contiguous [H_kv, T * G, D]."""
    return x.flatten(1, 2).contiguous()


def _by_head(x: Tensor, groups: int) -> Tensor:
    """Make the query heads of a group rows, heads first: [T, H, D] -> contiguous [H_kv, T * G, D]."""
    return _fold(x.unflatten(1, (-1, groups)).transpose(0, 1))


def _by_token(x: Tensor, groups: int) -> Tensor:
    """Undo `_by_head`."""
    heads, rows, dim = x.shape
    return x.view(heads, rows // groups, groups, dim).transpose(0, 1).reshape(rows // groups, heads * groups, dim)


def _with_constant(x: Tensor, constant: Tensor) -> Tensor:
    """Let a row's constant ride along as two features, the second of what the first one's rounding lost.

    A product with rows `_with_ones` adds it, in the product's own precision, and spares a pass over the result.
    """
    high = constant.to(x.dtype)
    return torch.cat([x, high, (constant - high).to(x.dtype)], -1)


def _with_ones(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[..., :2])], -1)


def _root_scores(q: Tensor, k: Tensor, plan: _Plan) -> Tensor:
    """Return the scores of the first token on the path of each row, [H_kv, rows, 1]."""
    bounds = pairwise([*plan.tree.roots, k.shape[1]])
    trees = [
        _products(q[:, root * plan.groups : end * plan.groups], k[:, root : root + 1].transpose(1, 2))
        for root, end in bounds
    ]
    return torch.cat(trees, 1)


def _highest_scores(q: Tensor, k: Tensor, plan: _Plan) -> Tensor:
    """Return the highest score of each row, [H_kv, rows, 1]."""
    highest = q.new_full((*q.shape[:2], 1), -torch.inf)
    for block in plan.tree.blocks:
        rows = plan.rows(block)
        scores = _scores(q, k, block, plan).amax(-1, keepdim=True)
        highest[:, rows] = highest[:, rows].maximum(scores)
    return highest


def _weigh(queries: Tensor, keys: Tensor, v: Tensor, plan: _Plan) -> tuple[_Sums, list[Tensor]]:
    """Return the sums, and the weights of each block if they are to be kept."""
    values = v.new_zeros((*queries.shape[:2], v.shape[-1]), dtype=torch.float32)
    sums, kept = _Sums(values, values.new_zeros((*queries.shape[:2], 1))), []
    for block in plan.tree.blocks:
        rows = plan.rows(block)
        weights = _scores(queries, keys, block, plan).exp_()
        sums.values[:, rows] += _products(weights, v[:, block.start : block.stop])
        sums.weights[:, rows] += weights.sum(-1, keepdim=True)
        if plan.keeps_weights:
            kept.append(weights)
    return sums, kept


def _scores(q: Tensor, k: Tensor, block: Block, plan: _Plan) -> Tensor:
    """Return the block's scores [H_kv, rows, L], very low where a query must not see a key."""
    scores = _products(q[:, plan.rows(block)], k[:, block.start : block.stop].transpose(1, 2))
    by_token = scores.unflatten(1, (-1, plan.groups))
    masked = torch.finfo(scores.dtype).min
    by_token[:, : block.stop - block.start].masked_fill_(block.hidden.unsqueeze(1).to(scores.device), masked)
    if plan.window is not None:
        positions = plan.tree.positions
        distance = positions[block.start : block.end, None] - positions[block.start : block.stop]
        by_token.masked_fill_((distance >= plan.window).unsqueeze(1).to(scores.device), masked)
    return scores


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
    size = query.shape[1] * query.element_size() * sum((b.end - b.start) * (b.stop - b.start) for b in tree.blocks)
    plan = _Plan(
        tree,
        query.shape[1] // key.shape[1],
        scaling if scaling is not None else query.shape[-1] ** -0.5,
        sliding_window if sliding_window is not None and sliding_window < depth else None,
        keeps_weights=torch.is_grad_enabled() and (getattr(module, "layer_idx", 0) + 1) * size <= _KEPT_BYTES,
    )
    out = cast(Tensor, _TreeAttention.apply(query, key, value, plan))
    return out, None


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
