"""Kinds of model servers: where they are, and which environment variable holds their key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolweave.errors import ServerError


@dataclass(frozen=True, slots=True)
class Preset:
    """Where a kind of server is; `url_name` is an environment variable that says otherwise."""

    url: str
    key_name: str = "OPENAI_API_KEY"
    needs_key: bool = False
    url_name: str = ""


_AZURE = "azure_openai"
_DASHSCOPE = Preset("https://dashscope.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY", needs_key=True)
_VLLM = Preset("http://localhost:8000/v1")
PRESETS: Mapping[str, Preset] = {
    "openai": Preset("https://api.openai.com/v1", needs_key=True, url_name="OPENAI_API_BASE"),
    "vllm-server": _VLLM,
    "vllm": _VLLM,
    "toolweave": Preset("http://localhost:8000/v1"),
    "ollama": Preset("http://localhost:11434/v1"),
    "dashscope": _DASHSCOPE,
    "modelscope": Preset("https://api-inference.modelscope.cn/v1", "MODELSCOPE_API_TOKEN", needs_key=True),
    "zhipu": Preset("https://open.bigmodel.cn/api/paas/v4", "ZHIPU_API_KEY", needs_key=True),
    _AZURE: Preset("", "AZURE_OPENAI_API_KEY", needs_key=True, url_name="AZURE_OPENAI_ENDPOINT"),
}
_NO_KEY = "EMPTY"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server as an llm config names it. `key` is shown nowhere; `preset` says where it should have come from."""

    url: str
    key: str = field(repr=False)
    preset: Preset
    azure_version: str | None = None

    @classmethod
    def of(cls, llm: Mapping[str, Any]) -> Endpoint:
        """Read `model_server` (or AgentFabric's `type`), `api_base`, `api_key`, `azure_endpoint` and `api_version`.

        Raises ServerError for an unknown server, and for Azure without an endpoint.
        """
        server = str(llm.get("model_server") or llm.get("type") or "openai")
        # AgentFabric tells DashScope's model families apart, as in dashscope_qwen1.5.
        preset = _DASHSCOPE if server.startswith("dashscope_") else PRESETS.get(server)
        if preset is None:
            raise ServerError(f"unknown model_server {server!r}", f"choose one of {', '.join(PRESETS)}")
        env_url = os.environ.get(preset.url_name) if preset.url_name else None
        url = llm.get("api_base") or llm.get("azure_endpoint") or env_url or preset.url
        if not url:
            raise ServerError(
                f"{server} has no address", f'set {preset.url_name}, or "azure_endpoint" in the llm config'
            )
        key = llm.get("api_key") or os.environ.get(preset.key_name) or _NO_KEY
        version = str(llm.get("api_version", "2024-06-01")) if server == _AZURE else None
        return cls(str(url).strip(), str(key).strip(), preset, version)

    def check_key(self) -> None:
        """Raise ServerError when the server is a public one and there is no key for it."""
        if self.key == _NO_KEY and self.preset.needs_key and (self.azure_version or self.url == self.preset.url):
            hint = f"set {self.preset.key_name}, or api_key in the llm config"
            raise ServerError(f"no key for {self.url}", hint)

    def redact(self, text: str) -> str:
        """Return the text with the key struck out."""
        return text.replace(self.key, "***") if self.key != _NO_KEY else text
