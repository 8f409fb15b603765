"""The loss of a prefix tree: logits only where a label is, a few at a time."""

from __future__ import annotations

from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from toolweave.training.prefix_tree import PrefixTree

_CHUNK = 256


class _LabelLoss(torch.autograd.Function):
    """Summed weighted cross-entropy of hidden states [L, d] under a frozen head [V, d].

    The gradient is computed along the way, so that at most `_CHUNK` rows of logits [V] exist at once.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        total = hidden.new_zeros((), dtype=torch.float32)
        gradient = torch.empty_like(hidden)
        # Made once: the system clears tensors of this size page by page.
        products = hidden.new_empty((min(_CHUNK, len(hidden)), len(head)))
        scores = torch.empty_like(products, dtype=torch.float32)
        for start in range(0, len(hidden), _CHUNK):
            rows = slice(start, start + _CHUNK)
            made = torch.mm(hidden[rows], head.T, out=products[: len(hidden[rows])])
            logits = scores[: len(made)].copy_(made)
            picked = logits.gather(1, target[rows, None])
            highest = logits.amax(-1, keepdim=True)
            share = logits.sub_(highest).exp_()
            norm = share.sum(-1, keepdim=True)
            total += torch.dot((highest + norm.log() - picked).squeeze(1), weight[rows])
            share.mul_(weight[rows, None] / norm).scatter_add_(1, target[rows, None], -weight[rows, None])
            torch.mm(made.copy_(share), head, out=gradient[rows])
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None, None, None


def tree_loss(model: PeftModel | PreTrainedModel, tree: PrefixTree) -> Tensor:
    """Return the summed cross-entropy of all labels, each counted once per sample that owns it.

    Equal to the sum of the losses of the samples computed one at a time. The output head stays frozen.
    """
    causal = cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)
    inputs = {"input_ids": tree.tokens.unsqueeze(0), "position_ids": tree.positions.unsqueeze(0)}
    hidden = causal.get_decoder()(**inputs, tree=tree, use_cache=False).last_hidden_state[0, tree.label_at]
    head = cast(nn.Linear, causal.get_output_embeddings())
    labels = (tree.label_target, tree.label_weight)
    loss = _LabelLoss.apply(hidden, head.weight.detach(), *labels)
    return cast(Tensor, loss)
