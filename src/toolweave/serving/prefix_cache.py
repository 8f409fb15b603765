"""A radix tree of prompts and their keys and values: each shared prefix is held once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor

ReadKV = Callable[[int, int], Tensor]


@dataclass(slots=True, eq=False)
class Node:
    """A run of tokens after its parent's. `kv` is [layers, 2, kv_heads, len(ids), head_dim].

    `end` is the length of the whole prefix that ends here.
    """

    ids: list[int]
    kv: Tensor | None
    parent: Node | None
    end: int
    used: int = 0
    children: dict[int, Node] = field(default_factory=dict)

    def path(self) -> Iterator[Node]:
        """Yield this node and its ancestors, without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent

    def pieces(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the keys and values of the whole prefix in pieces, each with the place it starts at."""
        return ((node.end - len(node.ids), node.kv) for node in self.path() if node.kv is not None)


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the length of the longest common prefix."""
    limit = min(len(a), len(b))
    return next((i for i in range(limit) if a[i] != b[i]), limit)


class PrefixCache:
    """Prompts seen so far, at most `max_tokens` of them, the least recently used leaving first."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.tokens = 0
        self.root = Node([], None, None, 0)
        self._clock = 0

    def match(self, ids: Sequence[int]) -> Node:
        """Return the node of the longest known prefix of `ids`, split so that it ends exactly there."""
        self._clock += 1
        node, done = self.root, 0
        while done < len(ids) and (child := node.children.get(ids[done])) is not None:
            shared = common_length(child.ids, ids[done : done + len(child.ids)])
            node = child if shared == len(child.ids) else self._split(child, shared)
            node.used = self._clock
            done = node.end
        return node

    def insert(self, ids: Sequence[int], read: ReadKV) -> None:
        """Add a prompt, if there is room; `read(start, stop)` copies out its keys and values."""
        node = self.match(ids)
        missing = len(ids) - node.end
        if not missing or not self._make_room(missing, set(node.path())):
            return
        child = Node(list(ids[node.end :]), read(node.end, len(ids)), node, len(ids), self._clock)
        node.children[child.ids[0]] = child
        self.tokens += missing

    def _split(self, node: Node, at: int) -> Node:
        assert node.parent is not None  # the root has no tokens to split  # noqa: S101
        assert node.kv is not None  # noqa: S101
        upper = Node(node.ids[:at], node.kv[..., :at, :].clone(), node.parent, node.end - len(node.ids) + at, node.used)
        node.parent.children[upper.ids[0]] = upper
        node.ids, node.kv, node.parent = node.ids[at:], node.kv[..., at:, :].clone(), upper
        upper.children[node.ids[0]] = node
        return upper

    def _make_room(self, count: int, pinned: set[Node]) -> bool:
        while self.tokens + count > self.max_tokens:
            free = [node for node in self._leaves(self.root) if node not in pinned]
            if not free or count > self.max_tokens:
                return False
            oldest = min(free, key=lambda node: node.used)
            assert oldest.parent is not None  # noqa: S101
            del oldest.parent.children[oldest.ids[0]]
            self.tokens -= len(oldest.ids)
        return True

    def _leaves(self, node: Node) -> Iterator[Node]:
        if not node.children and node.parent is not None:
            yield node
        for child in node.children.values():
            yield from self._leaves(child)
