"""The loss of a prefix tree: logits only where a label is."""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import Tensor, nn

from toolweave.training.prefix_tree import PrefixTree


def tree_loss(model: PeftModel | nn.Module, tree: PrefixTree) -> Tensor:
    """Return the summed cross-entropy of all labels, each counted once per sample that owns it.

    Equal to the sum of the losses of the samples computed one at a time.
    """
    output = model(
        input_ids=tree.tokens.unsqueeze(0),
        position_ids=tree.positions.unsqueeze(0),
        tree=tree,
        use_cache=False,
        logits_to_keep=tree.label_at,
    )
    losses = nn.functional.cross_entropy(output.logits[0].float(), tree.label_target, reduction="none")
    return torch.dot(losses, tree.label_weight)
