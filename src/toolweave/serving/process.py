"""A model server in a process of its own, for as long as it is needed."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from toolweave.errors import ServerError

_START_SECONDS = 300


@contextmanager
def serve_model(model: str) -> Iterator[str]:
    """Serve a model on a free local port and yield its `api_base`; the server ends with the block.

    Raises ServerError when the server ends or does not answer within five minutes.
    """
    port = _free_port()
    command = [sys.executable, "-m", "toolweave", "deploy", "--ckpt_dir", model, "--port", str(port)]
    server = subprocess.Popen([*command, "--served_model_name", model], stdout=subprocess.DEVNULL)
    try:
        _wait(server, f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait(server: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServerError(f"the model server ended with exit code {server.returncode}", "see its message above")
        try:
            if httpx.get(url, timeout=2).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise ServerError(f"the model server did not answer at {url} within {_START_SECONDS} s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
