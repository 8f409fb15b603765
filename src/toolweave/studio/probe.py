"""Trying a model's connection: one short question, and what came of it."""

from __future__ import annotations

import time
from dataclasses import dataclass

from toolweave.errors import ToolweaveError
from toolweave.models.client import ModelClient
from toolweave.studio.workspace import Home
from toolweave.types import Message


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether a model answered, what it said or what went wrong, and after how many seconds."""

    ok: bool
    text: str
    seconds: float


def probe(home: Home, model: str) -> Probe:
    """Ask a model of the user one short question."""
    began = time.perf_counter()
    try:
        client = ModelClient({"timeout": 30, "max_retries": 0} | home.llm(model))
        said = "".join(client.complete([Message(role="user", content="Say hello. 请打个招呼。")], ()))
    except ToolweaveError as error:
        return Probe(False, str(error), time.perf_counter() - began)
    return Probe(True, said.strip()[:200], time.perf_counter() - began)
