"""The real vLLM, on a random model: the seed's curl, recorded exchanges, visits, native calls, and parity.

Installs 3.4 GB; run by `make test-vllm`, not by `make test`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tiny import save_tiny_llama
from toolweave.data.synthesize import held_out_episodes
from toolweave.dialects import get_dialect
from toolweave.models.base_models import load
from toolweave.models.client import ModelClient
from toolweave.models.template import ChatTemplate
from toolweave.serving.parity import run_parity
from toolweave.weights.manifest import Manifest

EXCHANGES = Path(__file__).parents[1] / "fixtures" / "exchanges"
# What takes long on two cores is left out: compiling, and half of the memory for keys and values.
FLAGS = ["--dtype", "float32", "--max-model-len", "4096", "--enforce-eager", "--gpu-memory-utilization", "0.1"]


@pytest.fixture(scope="module")
def merged(bpe_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model as a merged folder: parity holds for any weights. vLLM knows no heads smaller than 32."""
    tokenizer = load(str(bpe_model_dir), torch.float32).template.tokenizer
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    folder = save_tiny_llama(tmp_path_factory.mktemp("merged") / "tiny-merged", tokenizer, head_dim=32)
    Manifest("tiny", ChatTemplate(tokenizer).hash, ("agentfabric-v06",)).save(folder)
    return folder


@pytest.fixture(scope="module")
def url(merged: Path) -> Iterator[str]:
    line = [sys.executable, "-m", "toolweave", "deploy", "--engine", "vllm", "--ckpt_dir", str(merged), "--port", "0"]
    with subprocess.Popen([*line, "--", *FLAGS], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            ready = (re.search(r"vLLM serves \S+ at (\S+)/v1", said) for said in server.stdout)
            found = next(filter(None, ready), None)
            assert found, "vLLM did not come up"
            yield found[1]
        finally:
            server.terminate()
            assert server.wait(60) == 0


def test_the_curl_of_the_tutorial(url: str, merged: Path) -> None:
    body = {"model": str(merged), "prompt": "San Francisco is a", "max_tokens": 7, "temperature": 0}
    reply = httpx.post(f"{url}/v1/completions", json=body, timeout=120).json()
    assert reply["usage"]["completion_tokens"] == 7


def requests(version: str) -> list[Any]:
    recorded = json.loads((EXCHANGES / f"roleplay_{version}.json").read_text("utf-8"))
    return [
        pytest.param(request, id=f"{version}-{name}-{number}")
        for name, exchange in recorded.items()
        for number, request in enumerate(exchange["requests"])
    ]


@pytest.mark.parametrize("request_", [*requests("v06"), *requests("v07")])
def test_what_the_real_clients_sent_is_answered(url: str, merged: Path, request_: dict[str, Any]) -> None:
    body = {**request_["body"], "model": merged.name, "max_tokens": 8}
    path = "chat/completions" if "messages" in body else "completions"
    reply = httpx.post(f"{url}/v1/{path}", json=body, timeout=300)
    # Upstream's raw completions begin with an empty prompt: no server can answer that.
    refused = body.get("prompt") == ""
    assert reply.status_code == (400 if refused else 200), reply.text
    if body.get("stream"):
        assert reply.text.rstrip().endswith("data: [DONE]")
    elif not refused:
        assert reply.json()["usage"]["completion_tokens"] > 0


def test_visits(url: str, merged: Path) -> None:
    short = {"max_tokens": 8}
    llm = {"model": merged.name, "model_server": "vllm-server", "api_base": f"{url}/v1", "generate_cfg": short}
    model = ModelClient(llm)
    for episode in held_out_episodes()[::100]:
        dialect = get_dialect(episode.meta["dialect"])
        sample = dialect.render(episode)[0]
        "".join(model.complete(sample.messages, sample.stop))
        grown = dialect.advance(sample.messages, dialect.visible(sample.completion), "晴，12°C")
        assert "".join(model.complete(grown, sample.stop))


def test_replies_can_be_limited_by_a_schema(url: str, merged: Path) -> None:
    episode = next(episode for episode in held_out_episodes() if episode.tools)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    schema = {
        "type": "object",
        "properties": {"name": {"enum": [tool.name for tool in episode.tools]}},
        "required": ["name"],
        "additionalProperties": False,
    }
    reply = client.chat.completions.create(
        model=merged.name,
        messages=[{"role": "user", "content": episode.turns[0].query}],
        response_format={"type": "json_schema", "json_schema": {"name": "call", "schema": schema}},
        max_tokens=64,
        temperature=0,
    )
    assert json.loads(reply.choices[0].message.content or "")["name"] in {tool.name for tool in episode.tools}


def test_the_same_replies(url: str, merged: Path) -> None:
    for agreement in run_parity(merged, api_bases=[f"{url}/v1"], count=10):
        agreement.check()
