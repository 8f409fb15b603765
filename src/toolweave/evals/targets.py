"""What is evaluated: an OpenAI-compatible address, a model that is served for the occasion, or an AgentFabric agent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import httpx

from toolweave.errors import DataError, ServerError
from toolweave.evals.cases import Visit
from toolweave.models.locate import EMBEDDED_TOOLS, STARTER, resolve
from toolweave.serving.process import serve_model
from toolweave.types import Json, Lang, Role

_WEIGHTS = ("*.safetensors", "*.gguf", "config.json", "generation_config.json", "tokenizer*.json", "chat_template*")
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are drawn. Temperature 0 is greedy."""

    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 256

    def settings(self) -> Json:
        """Return them as `generate_cfg`."""
        drawn: Json = {"temperature": self.temperature, "max_tokens": self.max_tokens}
        return {**drawn, "seed": self.seed} if self.temperature else drawn


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """An AgentFabric agent: who it plays, in which language, and its model's llm config."""

    role: Role
    lang: Lang
    llm: Mapping[str, Any] = field(default_factory=dict)

    def play(self, visits: Sequence[Visit]) -> list[Visit]:
        """Return the visits of the agent's language, asked of this agent: its role in place of theirs."""
        return [
            replace(visit, episode=replace(visit.episode, instruction=self.role))
            for visit in visits
            if visit.episode.lang is self.lang
        ]


@dataclass(frozen=True, slots=True)
class Target:
    """A model that answers now: its llm config, and the id that stands for its weights in a cache."""

    llm: Mapping[str, Any]
    model_id: str


@contextmanager
def open_target(model: str, sampling: Sampling, *, name: str | None = None) -> Iterator[Target]:
    """Yield the target behind `model`: a URL (with `name`, or else the first model it serves), or a model to serve.

    A served model ends with the block. Raises ModelError, ServerError when there is none.
    """
    common = {"model_server": "openai", "is_chat": True, "generate_cfg": sampling.settings()}
    if model.startswith(("http://", "https://")):
        url = model.rstrip("/")
        served = name or _first_model(url)
        yield Target({**common, "model": served, "api_base": url}, f"{url} {served}")
        return
    model_id = model_hash(model)
    with serve_model(model) as url:
        yield Target({**common, "model": model, "api_base": url}, model_id)


def model_hash(model: str) -> str:
    """Return a name for the weights of a folder, GGUF file or an embedded model; of a hub id, the id.

    It covers weights, configuration, tokenizer and chat template, so a model trained again has another name.
    """
    found = resolve(model)
    if not isinstance(found, Path):
        return model
    folders = [found] if found.is_dir() else [STARTER] if model == EMBEDDED_TOOLS else []
    files = {file for folder in folders for pattern in _WEIGHTS for file in folder.glob(pattern)} | {found}
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file.is_file()):
        digest.update(file.name.encode())
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
    return f"sha256:{digest.hexdigest()[:32]}"


def read_agent(path: Path) -> AgentSpec:
    """Read AgentFabric's `builder_config.json`, and its model from the `model_config.json` beside it if there is one.

    Raises DataError for a file that is not one.
    """
    builder = _read_json(path)
    if "name" not in builder and "instruction" not in builder:
        raise DataError(f"{path} is not a builder_config.json", "it has name, description and instruction")
    role = {key: builder.get(key) or "" for key in ("name", "description", "instruction")}
    models = path.with_name("model_config.json")
    key = builder.get("model")
    llm: Json = {}
    if key and models.is_file():
        llm = dict(_read_json(models).get(key) or {})
    if llm:
        llm["model_server"] = llm.pop("type", "openai")
    return AgentSpec(cast(Role, role), Lang(builder.get("language") or "zh"), llm)


def _read_json(path: Path) -> Json:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}", "check the path; it is taken from the current folder") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is not a JSON object")
    return content


def _first_model(url: str) -> str:
    try:
        reply = httpx.get(f"{url}/models", timeout=10)
        return str(reply.raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ServerError(
            f"{url} does not say which models it serves: {error}",
            "check the address (mostly ending in /v1), or name one",
        ) from error
