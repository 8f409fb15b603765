"""Embeddings by any OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import openai
from openai import OpenAI

from toolweave.errors import ServerError
from toolweave.models.presets import Endpoint
from toolweave.models.server_errors import explain

_BATCH = 10  # DashScope's newest models take no more texts at once


class Embedder:
    """Turns texts into vectors. `llm` is an llm config as `ModelClient` takes it, whose `model` makes embeddings."""

    def __init__(self, llm: Mapping[str, Any]) -> None:
        self._endpoint = Endpoint.of(llm)
        if not llm.get("model"):
            raise ServerError("the embedding config names no model", 'add "model": "…"')
        self.model: str = llm["model"]
        self._timeout = float(llm.get("timeout", 60))

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector for every text. Raises ServerError when the server cannot be reached or refuses."""
        self._endpoint.check_key()
        vectors: list[list[float]] = []
        with OpenAI(api_key=self._endpoint.key, base_url=self._endpoint.url, timeout=self._timeout) as client:
            for start in range(0, len(texts), _BATCH):
                batch = list(texts[start : start + _BATCH])
                try:
                    answer = client.embeddings.create(model=self.model, input=batch, encoding_format="float")
                except openai.OpenAIError as error:
                    raise explain(error, self._endpoint, self.model) from None
                data = sorted(answer.data or (), key=lambda item: item.index)
                if len(data) != len(batch):
                    raise ServerError(f"{self._endpoint.url} made {len(data)} embeddings of {len(batch)} texts")
                vectors += [list(item.embedding) for item in data]
        return vectors
