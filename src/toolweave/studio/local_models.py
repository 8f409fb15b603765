"""Models that the Studio serves itself: started when they are first asked, ended with the Studio."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import httpx

from toolweave.errors import ServerError
from toolweave.models.locate import EMBEDDED, EMBEDDED_TOOLS
from toolweave.serving.process import serve_model

DEMO_MODEL = Path("output/demo/sft/merged")
"""Where `toolweave demo` leaves its tuned model."""

_HEALTH_SECONDS = 5


def local_model() -> str:
    """Return the model that needs no key: the demo's tuned one where there is one, else embedded-tools."""
    return str(DEMO_MODEL.resolve()) if (DEMO_MODEL / "config.json").is_file() else EMBEDDED_TOOLS


@dataclass(slots=True)
class _Served:
    """A server that is starting, or runs at `url`."""

    lock: Lock = field(default_factory=Lock)
    stack: ExitStack = field(default_factory=ExitStack)
    url: str = ""


class LocalModels:
    """Serves models by folder or embedded name, each once and in a process of its own."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._served: dict[str, _Served] = {}

    def api_base(self, model: str) -> str:
        """Return where a model is served; the first call starts it, which takes its time.

        Raises ServerError when it cannot be served.
        """
        with self._lock:
            served = self._served.setdefault(model, _Served())
        with served.lock:
            if served.url and not _healthy(served.url):
                self._end(served)
            if not served.url:
                served.url = served.stack.enter_context(serve_model(model))
            return served.url

    def running(self, model: str) -> bool:
        """Tell whether a model answers at once."""
        served = self._served.get(model)
        return served is not None and bool(served.url)

    def close(self) -> None:
        """End all servers."""
        with self._lock:
            for served in self._served.values():
                self._end(served)
            self._served.clear()

    def _end(self, served: _Served) -> None:
        served.url = ""
        served.stack.close()
        served.stack = ExitStack()


def _healthy(url: str) -> bool:
    try:
        return httpx.get(url.removesuffix("/v1") + "/health", timeout=_HEALTH_SECONDS, trust_env=False).is_success
    except httpx.TransportError:
        return False


def check_local(model: str) -> None:
    """Raise ServerError for what the Studio does not serve: anything but embedded models and folders of models."""
    if model not in (EMBEDDED, EMBEDDED_TOOLS) and not (Path(model) / "config.json").is_file():
        raise ServerError(f"{model} is no folder with a model", f"name a merged model, {EMBEDDED} or {EMBEDDED_TOOLS}")
