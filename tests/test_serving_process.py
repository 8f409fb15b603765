"""`serve_model`: its server ends with the block, and with the process that asked for it, however that ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from toolweave.errors import ServerError
from toolweave.serving.process import serve_model

SERVES = """
import sys, time
from toolweave.serving.process import serve_model
with serve_model(sys.argv[1]) as url:
    print(url, flush=True)
    time.sleep(600)
"""


def test_the_server_ends_with_the_block(tiny_model_dir: Path) -> None:
    others = set(psutil.Process().children())
    with serve_model(str(tiny_model_dir)) as url:
        body = {"prompt": "hi", "max_tokens": 2}
        assert httpx.post(f"{url}/completions", json=body, timeout=120).json()["usage"]["completion_tokens"] == 2
        (server,) = set(psutil.Process().children()) - others
    assert not server.is_running()


def test_the_server_ends_with_a_process_that_is_killed(tiny_model_dir: Path) -> None:
    line = [sys.executable, "-c", SERVES, str(tiny_model_dir)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        (server,) = psutil.Process(process.pid).children()
        assert httpx.get(f"{url}/models", timeout=120).is_success
        process.kill()
    gone, _ = psutil.wait_procs([server], timeout=120)
    assert gone
    with pytest.raises(httpx.ConnectError):
        httpx.get(url)


def test_a_model_that_cannot_be_served(tmp_path: Path) -> None:
    others = set(psutil.Process().children())
    with pytest.raises(ServerError, match="the model server ended with exit code 2"), serve_model(str(tmp_path)):
        pass
    assert set(psutil.Process().children()) <= others
