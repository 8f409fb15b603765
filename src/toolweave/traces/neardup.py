"""Texts that are nearly the same: MinHash finds candidates, their shingles decide."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from toolweave.errors import ToolweaveError

if TYPE_CHECKING:
    from datasketch import MinHash

_PERMUTATIONS = 64


class Match(NamedTuple):
    """A text seen before, and the share of shingles in common (1: the same but for blanks and case)."""

    key: Hashable
    similarity: float


class NearDuplicates:
    """Remembers texts and finds those of `threshold` similarity (Jaccard, of character n-grams of `size`) or more.

    Raises ToolweaveError where `datasketch` is not installed.
    """

    def __init__(self, threshold: float, size: int = 5) -> None:
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError:
            hint = "pip install 'toolweave[traces]'"
            raise ToolweaveError("near-duplicates are found with datasketch, which is not installed", hint) from None
        self._minhash = MinHash
        # A wider net than the threshold: what the sketch only estimates is measured afterwards.
        self._index = MinHashLSH(threshold=max(0.1, threshold - 0.15), num_perm=_PERMUTATIONS)
        self._threshold = threshold
        self._size = size
        self._shingles: dict[Hashable, frozenset[str]] = {}

    def find(self, text: str) -> Match | None:
        """Return the most similar text among those added, if one is similar enough."""
        shingles = _shingles(text, self._size)
        matches = [
            Match(key, _similarity(shingles, self._shingles[key])) for key in self._index.query(self._sketch(shingles))
        ]
        best = max(matches, key=lambda match: match.similarity, default=None)
        return best if best is not None and best.similarity >= self._threshold else None

    def add(self, key: Hashable, text: str) -> None:
        """Remember a text under a key of its own."""
        shingles = _shingles(text, self._size)
        self._shingles[key] = shingles
        self._index.insert(key, self._sketch(shingles))

    def _sketch(self, shingles: Iterable[str]) -> MinHash:
        sketch = self._minhash(num_perm=_PERMUTATIONS)
        sketch.update_batch([shingle.encode("utf-8", "surrogatepass") for shingle in shingles])
        return sketch


def _shingles(text: str, size: int) -> frozenset[str]:
    plain = "".join(text.split()).casefold()
    return frozenset(plain[at : at + size] for at in range(max(1, len(plain) - size + 1)))


def _similarity(left: frozenset[str], right: frozenset[str]) -> float:
    return len(left & right) / len(left | right)
