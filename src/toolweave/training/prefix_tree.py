"""A batch as a radix tree over token ids: every distinct token is computed once.

Requests of one visit and visits of one agent share long prefixes. Flattened in depth-first order,
the descendants of a node are one contiguous range, which is what makes tree attention cheap.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Half of a run's own attention square is masked, and so wasted: long nodes are cut.
_RUN = 256
# Neighbouring subtrees are one block up to so many tokens: a block costs more than what of it is masked.
_WINDOW = 256


@dataclass(frozen=True, slots=True)
class Encoded:
    """One sample as token ids; tokens from index `prompt` on are labels."""

    ids: tuple[int, ...]
    prompt: int


@dataclass(frozen=True, slots=True)
class Block:
    """The tokens `[start, end)` attend to `[start, stop)`; what of it is not on their path is in the first rows.

    hidden: bool [stop - start, stop - start], where a row's token does not see a column's.
    """

    start: int
    stop: int
    end: int
    hidden: Tensor = field(compare=False)


@dataclass(frozen=True, slots=True)
class _Node:
    """A run of tokens `[start, stop)` without a branch; its descendants are the tokens `[stop, end)`."""

    start: int
    stop: int
    end: int


@dataclass(frozen=True, slots=True)
class PrefixTree:
    """A flattened batch of T distinct tokens with L distinct (token, target) pairs.

    tokens, positions: int64 [T]. ends: int64 [T], where the descendants of a token end: token i sees
    token j where j <= i < ends[j]. `blocks` cover all these pairs, each once. roots: the tokens that begin samples.
    label_at: int64 [L], the flat token whose logits predict label_target: int64 [L];
    label_weight: float32 [L], how many samples own the label.
    `nominal` counts the tokens as if nothing were shared.
    """

    tokens: Tensor
    positions: Tensor
    ends: Tensor
    roots: tuple[int, ...]
    blocks: tuple[Block, ...]
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
        nodes: list[_Node] = []
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
            nodes.append(_Node(start, start, start))
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
            nodes[slot] = _Node(start, start + own, len(tokens))

        if ordered:
            grow(ordered, 0, -1)
        items = sorted(labels.items())
        ends = torch.tensor([node.end for node in nodes for _ in range(node.start, node.stop)], dtype=torch.long)
        return cls(
            tokens=torch.tensor(tokens, dtype=torch.long),
            positions=torch.tensor(positions, dtype=torch.long),
            ends=ends,
            roots=tuple(at for at, position in enumerate(positions) if position == 0),
            blocks=tuple(_blocks(nodes, ends)),
            label_at=torch.tensor([at for (at, _), _ in items], dtype=torch.long),
            label_target=torch.tensor([target for (_, target), _ in items], dtype=torch.long),
            label_weight=torch.tensor([float(count) for _, count in items]),
            nominal=sum(len(sample.ids) for sample in samples),
        )


def _blocks(nodes: Sequence[_Node], ends: Tensor) -> Iterator[Block]:
    """Yield blocks that cover the nodes, which come in depth-first order."""

    def block(start: int, stop: int, end: int) -> Block:
        at = torch.arange(start, stop)
        return Block(start, stop, end, (at > at[:, None]) | (at[:, None] >= ends[start:stop]))

    opened = closed = 0
    for node in nodes:
        if node.start < closed:
            continue
        if node.end - opened <= _WINDOW:
            closed = node.end
            continue
        if opened < closed:
            yield block(opened, closed, closed)
        opened = closed = node.start
        if node.end - node.start <= _WINDOW:
            closed = node.end
            continue
        for start in range(node.start, node.stop, _RUN):
            yield block(start, min(start + _RUN, node.stop), node.end)
        opened = closed = node.stop
    if opened < closed:
        yield block(opened, closed, closed)
