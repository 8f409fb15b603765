"""`deploy --engine vllm` with a program in the place of vLLM: whatever is going on, its processes end with ours."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from toolweave.errors import ModelError, ServerError
from toolweave.serving import vllm
from toolweave.weights.manifest import Manifest

FAKE = (Path(__file__).parent / "fake_vllm.py").read_text("utf-8")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment whose Python is the fake one; without `.ready` its pip is run first, which is as fake."""
    folder = tmp_path / "environment"
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(FAKE.format(python=sys.executable, folder=folder), "utf-8")
    python.chmod(0o755)
    monkeypatch.setenv("TOOLWEAVE_VLLM_ENV", str(folder))
    return folder


def started(folder: Path) -> dict[str, Any]:
    while not (folder / "started").is_file():
        time.sleep(0.05)
    return json.loads((folder / "started").read_text("utf-8"))


def all_end(pids: list[int]) -> bool:
    """Wait for processes that were killed; the machine may take a moment to bury them."""
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    ("when", "number", "code"),
    [("installs", signal.SIGTERM, 130), ("starts", signal.SIGINT, 0), ("serves", signal.SIGTERM, 0)],
)
def test_told_to_stop_everything_ends(
    environment: Path, tiny_model_dir: Path, when: str, number: int, code: int
) -> None:
    if when != "installs":
        (environment / ".ready").touch()
    line = [sys.executable, "-m", "toolweave", "deploy", "--engine", "vllm", "--ckpt_dir", str(tiny_model_dir)]
    environ = {**os.environ, "FAKE_VLLM": when, "TOOLWEAVE_API_KEY": "secret"}
    with subprocess.Popen(
        [*line, "--port", "0", "--", "--tensor-parallel-size", "2"], env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        about = started(environment)
        if when == "serves":
            assert process.stdout is not None
            said = process.stdout.readline()
            assert re.match(rf"vLLM serves {tiny_model_dir.name} at http://127.0.0.1:\d+/v1", said)
            assert about["arguments"][-2:] == ["--tensor-parallel-size", "2"]
            assert about["environ"] == {"PYTHONPATH": None, "VLLM_API_KEY": "secret"}
        process.send_signal(number)
        assert process.wait() == code
    assert all_end(about["pids"])
    assert (environment / ".ready").is_file() == (when != "installs")


def test_killed_nothing_is_left(environment: Path, tiny_model_dir: Path) -> None:
    (environment / ".ready").touch()
    line = [sys.executable, "-m", "toolweave", "deploy", "--engine", "vllm", "--ckpt_dir", str(tiny_model_dir)]
    environ = {**os.environ, "FAKE_VLLM": "serves"}
    with subprocess.Popen([*line, "--port", "0"], env=environ, stdout=subprocess.PIPE, text=True) as process:
        about = started(environment)
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
    assert all_end(about["pids"])


def test_a_server_that_does_not_come_up(
    environment: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (environment / ".ready").touch()
    monkeypatch.setenv("FAKE_VLLM", "fails")
    with pytest.raises(ServerError, match="vLLM ended with exit code 7"):
        vllm.deploy(tiny_model_dir, "127.0.0.1", 0)
    assert all_end(started(environment)["pids"])


def test_an_installation_that_fails(environment: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM", "fails")
    with pytest.raises(ServerError, match=r"-m pip install .* failed"):
        vllm.deploy(tiny_model_dir, "127.0.0.1", 0)
    assert not (environment / ".ready").exists()


def test_a_port_that_is_taken_is_told_before_anything_is_installed(tiny_model_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ServerError, match="in use"):
        vllm.deploy(tiny_model_dir, "127.0.0.1", taken.getsockname()[1])


def test_what_vllm_cannot_serve_is_to_be_exported_first(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="toolweave export"):
        vllm.deploy(tmp_path, "127.0.0.1", 8000)


def test_vllm_gets_its_flags_last(tmp_path: Path) -> None:
    line = vllm.command(Path("py"), tmp_path, "127.0.0.1", 8000, ["a"], ["--tensor-parallel-size", "2"])
    assert line[-2:] == ["--tensor-parallel-size", "2"]


def test_a_model_with_native_calls_makes_vllm_read_them() -> None:
    assert "--enable-auto-tool-choice" in vllm._flags(Manifest("b", "h", ("agentfabric-v06", "native")))
    assert not vllm._flags(Manifest("b", "h", ("agentfabric-v06",)))
    assert not vllm._flags(None)
