"""Knowledge: an agent's documents, cut into passages and searched for every question."""

from __future__ import annotations

from toolweave.knowledge.documents import SUFFIXES, Passage, read_document
from toolweave.knowledge.index import Embed, Knowledge

__all__ = ["SUFFIXES", "Embed", "Knowledge", "Passage", "read_document"]
