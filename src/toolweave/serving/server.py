"""Running the server in the foreground, as the command line does."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import uvicorn

from toolweave.errors import ModelError, ServerError
from toolweave.models.base_models import load
from toolweave.serving.app import create_app
from toolweave.serving.engine import Engine
from toolweave.serving.gatekeeper import Limits
from toolweave.weights.manifest import Manifest

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def deploy(
    ckpt_dir: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    served_model_name: str | None = None,
    *,
    dialect: str | None = None,
    guided_calls: bool = True,
    limits: Limits | None = None,
    max_batch: int = 16,
    max_length: int = 4096,
    cache_tokens: int = 32768,
    drain_seconds: int = 30,
) -> None:
    """Serve a model over the OpenAI API until interrupted; port 0 takes a free one.

    `dialect` is the prompt format for requests with tools (default: the one the model was tuned on). Told to stop,
    the server takes no more requests and gives those under way `drain_seconds`. On a loopback address without an API
    key, only requests to a loopback name are answered, so that no web page can reach it by a name of its own.

    Raises ServerError when the port cannot be had, ModelError for an adapter, or a model that is
    missing or whose chat template is not the one it was trained with.
    """
    limits = limits or Limits()
    if host in _LOOPBACK and limits.api_key is None and not limits.allowed_hosts:
        limits = replace(limits, allowed_hosts=_LOOPBACK)
    with _listen(host, port) as listener:
        folder = Path(ckpt_dir)
        if (folder / "adapter_config.json").is_file():
            raise ModelError(
                f"{folder} is an adapter, not a whole model",
                f"merge it first: toolweave export --ckpt_dir {folder} --merge_lora true",
            )

        def start() -> tuple[Engine, Manifest | None]:
            loaded = load(str(ckpt_dir))
            manifest = Manifest.load(folder)
            if manifest is not None:
                manifest.check_template(loaded.template.hash, folder)
            return Engine(loaded, max_batch=max_batch, max_length=max_length, cache_tokens=cache_tokens), manifest

        # In a thread that ends: OpenMP keeps threads for every thread that used it, and once there are more than cores,
        # the engine's sleep between products instead of waiting awake.
        with ThreadPoolExecutor(1) as starter:
            engine, manifest = starter.submit(start).result()
        name = served_model_name or (folder.resolve().name if folder.exists() else str(ckpt_dir))
        tuned_on = manifest.dialects[0] if manifest is not None and manifest.dialects else None
        try:
            app = create_app(engine, name, dialect or tuned_on, limits=limits, guided_calls=guided_calls)
            quiet = uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=drain_seconds,
                ws="none",
                lifespan="off",
            )
            print(_ready(_url(listener), name), flush=True)
            uvicorn.Server(quiet).run(sockets=[listener])
        finally:
            engine.close()


def check_port(host: str, port: int) -> None:
    """Raise ServerError when nothing can listen on this port now."""
    _listen(host, port).close()


def _listen(host: str, port: int) -> socket.socket:
    """Take the port now, before the model is loaded: connections wait from here on."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ServerError(f"cannot listen on {host}: {error}", "say --host 127.0.0.1") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except PermissionError as error:
        listener.close()
        raise ServerError(f"not allowed to listen on port {port}", "choose a --port from 1024 on") from error
    except OSError as error:
        listener.close()
        raise ServerError(
            f"port {port} is in use on {host}", "stop the other server, or choose another --port"
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _ready(url: str, name: str) -> str:
    body = f'{{"model": "{name}", "messages": [{{"role": "user", "content": "你好"}}]}}'
    return (
        f"toolweave serves {name} at {url}/v1 (Ctrl+C stops it). Try: "
        f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
    )
