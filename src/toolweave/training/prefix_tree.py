"""A batch as a radix tree over token ids: every distinct token is computed once.

Requests of one visit and visits of one agent share long prefixes. Flattened in depth-first order,
the descendants of a node are one contiguous range, which is what makes tree attention cheap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_RUN = 256


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sample as token ids; tokens from index `prompt` on are labels."""

    ids: tuple[int, ...]
    prompt: int


@dataclass(frozen=True, slots=True)
class Node:
    """A run of at most `_RUN` tokens `[start, stop)`; its descendants are the tokens `[stop, end)`."""

    start: int
    stop: int
    end: int

    def cut(self) -> Iterator[Node]:
        """Yield the node as a chain of runs: half of a run's own attention square is masked, and so wasted."""
        for start in range(self.start, self.stop, _RUN):
            yield Node(start, min(start + _RUN, self.stop), self.end)


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """A flattened batch of T distinct tokens with L distinct (token, target) pairs.

    tokens, positions: int64 [T]. label_at: int64 [L], the flat token whose logits predict
    label_target: int64 [L]; label_weight: float32 [L], how many samples own the label.
    `nominal` counts the tokens as if nothing were shared.
    """

    tokens: Tensor
    positions: Tensor
    nodes: tuple[Node, ...]
    label_at: Tensor
    label_target: Tensor
    label_weight: Tensor
    nominal: int

    @classmethod
    def build(cls, samples: Sequence[Encoded]) -> PrefixTree:
        """Merge samples into a tree; the order of equal-prefix samples does not matter."""
        ordered = sorted(samples, key=lambda sample: sample.ids)
        tokens: list[int] = []
        positions: list[int] = []
        nodes: list[Node] = []
        labels: Counter[tuple[int, int]] = Counter()

        def grow(group: Sequence[Encoded], depth: int, parent_at: int) -> None:
            """Append the subtree of `group`, whose members agree on `ids[:depth]`."""
            first, last = group[0].ids, group[-1].ids
            stop = depth
            # In sorted order, what the first and the last share is shared by all between them.
            while stop < min(len(first), len(last)) and first[stop] == last[stop]:
                stop += 1
            start = len(tokens)
            tokens.extend(first[depth:stop])
            positions.extend(range(depth, stop))
            slot = len(nodes)
            nodes.append(Node(start, start, start))
            own = stop - depth
            for sample in group:
                for at in range(max(depth, sample.prompt), stop):
                    source = start + at - depth - 1 if at > depth else parent_at
                    labels[source, sample.ids[at]] += 1
            tail = start + own - 1 if own else parent_at
            rest = [sample for sample in group if len(sample.ids) > stop]
            while rest:
                branch = [sample for sample in rest if sample.ids[stop] == rest[0].ids[stop]]
                grow(branch, stop, tail)
                rest = rest[len(branch) :]
            nodes[slot] = Node(start, start + own, len(tokens))

        if ordered:
            grow(ordered, 0, -1)
        items = sorted(labels.items())
        return cls(
            tokens=torch.tensor(tokens, dtype=torch.long),
            positions=torch.tensor(positions, dtype=torch.long),
            nodes=tuple(run for node in nodes for run in node.cut()),
            label_at=torch.tensor([at for (at, _), _ in items], dtype=torch.long),
            label_target=torch.tensor([target for (_, target), _ in items], dtype=torch.long),
            label_weight=torch.tensor([float(count) for _, count in items]),
            nominal=sum(len(sample.ids) for sample in samples),
        )
