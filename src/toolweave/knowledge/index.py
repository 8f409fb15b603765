"""Finding the passages that fit a question: BM25, or embeddings where a model for them is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import rjieba

from toolweave.errors import DataError
from toolweave.knowledge.documents import Passage, read_document

if TYPE_CHECKING:
    from bm25s import BM25

Embed = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""Turns texts into vectors, as `toolweave.models.embeddings.Embedder` does."""


class Knowledge:
    """The documents of one agent. Files are read at once, indexed at the first search; threads may share it.

    Raises DataError for a file that cannot be read.
    """

    def __init__(self, paths: Iterable[str | Path], embed: Embed | None = None) -> None:
        self.passages = tuple(passage for path in paths for passage in read_document(path))
        self._embed = embed
        self._lock = Lock()

    def search(self, query: str, k: int = 4) -> list[Passage]:
        """Return the `k` passages that fit best, the best first; without a word in common, none.

        Raises what `embed` raises.
        """
        if not self.passages or not query.strip():
            return []
        scores = self._by_words(query) if self._embed is None else self._by_meaning(query, self._embed)
        best = np.argsort(-scores, kind="stable")[:k]
        return [self.passages[at] for at in best if scores[at] > 0]

    def _by_words(self, query: str) -> Any:
        with self._lock:
            index = self._words
        known = [word for word in _words(query) if word in index.vocab_dict]
        return index.get_scores(known) if known else np.zeros(len(self.passages))

    def _by_meaning(self, query: str, embed: Embed) -> Any:
        with self._lock:
            vectors = self._vectors
        (vector,) = _unit(embed([query]))
        return vectors @ vector

    @cached_property
    def _words(self) -> BM25:
        try:
            from bm25s import BM25
        except ModuleNotFoundError as error:
            raise DataError(f"knowledge needs {error.name}", "pip install 'toolweave[knowledge]'") from None
        index = BM25()
        index.index([_words(passage.text) for passage in self.passages], show_progress=False)
        return index

    @cached_property
    def _vectors(self) -> Any:
        return _unit([] if self._embed is None else self._embed([passage.text for passage in self.passages]))


def _unit(vectors: Sequence[Sequence[float]]) -> Any:
    array = np.asarray(vectors, dtype=np.float32)
    return array / np.maximum(np.linalg.norm(array, axis=-1, keepdims=True), 1e-12)


def _words(text: str) -> list[str]:
    """Return the words of a text, Chinese ones segmented; long words also as the shorter ones inside them."""
    return [word for word in rjieba.cut_for_search(text.lower()) if any(map(str.isalnum, word))]
