"""The real vLLM: the seed's curl, and parity. Installs 3.4 GB; run by `make test-vllm`, not by `make test`."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from toolweave.models.base_models import load
from toolweave.serving import vllm
from toolweave.serving.parity import run_parity
from toolweave.weights.manifest import Manifest


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as a merged folder: parity holds for any weights."""
    folder = tmp_path_factory.mktemp("model") / "smollm2-merged"
    loaded = load("embedded", torch.float32)
    loaded.model.hf_quantizer = None  # it came out of a GGUF file, and is plain tensors now
    loaded.model.save_pretrained(folder)
    loaded.template.tokenizer.save_pretrained(folder)
    Manifest("embedded", loaded.template.hash, ("agentfabric-v06",)).save(folder)
    return folder


@pytest.fixture(scope="module")
def url(merged: Path) -> Iterator[str]:
    vllm.prepare()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = [sys.executable, "-m", "toolweave", "deploy", "--engine", "vllm", "--ckpt_dir", str(merged)]
    flags = ["--dtype", "float32", "--max-model-len", "2048", "--gpu-memory-utilization", "0.3"]
    with subprocess.Popen([*line, "--port", str(port), "--", *flags], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            ready = next((said for said in server.stdout if re.match("vLLM serves", said)), "")
            assert ready, "vLLM did not come up"
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            assert server.wait(60) is not None


def test_the_curl_of_the_tutorial(url: str, merged: Path) -> None:
    body = {"model": str(merged), "prompt": "San Francisco is a", "max_tokens": 7, "temperature": 0}
    reply = httpx.post(f"{url}/v1/completions", json=body, timeout=120).json()
    assert reply["usage"]["completion_tokens"] == 7


def test_the_same_replies(url: str, merged: Path) -> None:
    for agreement in run_parity(merged, api_bases=[f"{url}/v1"], count=10):
        agreement.check()
