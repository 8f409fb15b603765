"""The parity gate over every form of a tuned model, against the merged model by transformers in float32.

    python bench/parity.py --ckpt_dir MERGED --adapter ADAPTER --server --vllm --llama_python PYTHON

Forms: the adapter on its base, the embedded engine and vLLM in float32; with `--server` the embedded server in the
dtype it takes here; with `--llama_python PYTHON` (that has llama-cpp-python) llama.cpp on GGUF files written for this.
Says for each how many of the greedy replies are the same, token for token, and where the first differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from engines import Server, Worker

from toolweave.models.base_models import load
from toolweave.models.template import ChatTemplate
from toolweave.serving.parity import MAX_TOKENS, run_parity
from toolweave.serving.process import end_tree, serve_model
from toolweave.types import Sample
from toolweave.weights.gguf import GgufType, write_gguf
from toolweave.weights.parity import Reply

VLLM_FLAGS = ("--dtype", "float32", "--max-model-len", "2048", "--enforce-eager", "--gpu-memory-utilization", "0.1")


def by_llama_cpp(worker: Worker, template: ChatTemplate) -> Reply:
    def reply(request: Sample) -> list[int]:
        made: list[int] = worker.ask([template.request_ids(request)], MAX_TOKENS)["ids"][0]
        return made[: made.index(template.end_id)] if template.end_id in made else made

    return reply


def llama_cpp(given: argparse.Namespace, stack: ExitStack) -> Iterator[tuple[str, Reply]]:
    """Yield llama.cpp's replies from each kind of GGUF; float32 weights with keys and values in float32, too."""
    loaded = load(given.ckpt_dir, torch.float32)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    for kind in map(GgufType, given.gguf):
        path = folder / f"{kind}.gguf"
        write_gguf(loaded, path, kind, "parity")
        library = "llama_cpp_f32" if kind is GgufType.F32 else "llama_cpp"
        line = [given.llama_python, str(Path(__file__).with_name("engine_worker.py")), library, str(path)]
        worker = Worker(f"llama.cpp {kind}", line, 0)
        stack.callback(end_tree, worker.process)
        yield worker.name, by_llama_cpp(worker, loaded.template)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--ckpt_dir", required=True)
    options.add_argument("--adapter", type=Path)
    options.add_argument("--server", action="store_true", help="the embedded server, in the dtype it takes here")
    options.add_argument("--vllm", action="store_true", help="vLLM in float32, installed if it is not")
    options.add_argument("--llama_python", help="a Python that has llama-cpp-python")
    options.add_argument("--gguf", nargs="+", default=[kind.value for kind in GgufType])
    options.add_argument("--requests", type=int, default=50)
    options.add_argument("--output")
    given = options.parse_args()
    rows = []
    with ExitStack() as stack:
        servers: dict[str, str] = {}
        if given.vllm:
            line = [sys.executable, "-m", "toolweave", "deploy", "--end_with_stdin", "--engine", "vllm"]
            line += ["--ckpt_dir", given.ckpt_dir, "--port", "0", "--", *VLLM_FLAGS]
            vllm = Server("vllm", line, 0)
            stack.callback(end_tree, vllm.process)
            servers[f"{vllm.url}/v1"] = "vLLM float32"
        if given.server:
            servers[stack.enter_context(serve_model(given.ckpt_dir))] = "embedded server"
        others = dict(llama_cpp(given, stack)) if given.llama_python else {}
        for agreement in run_parity(
            Path(given.ckpt_dir),
            adapter=given.adapter,
            api_bases=list(servers),
            others=others,
            count=given.requests,
        ):
            form = servers.get(agreement.form, agreement.form)
            same = agreement.requests - len(agreement.differences)
            rows.append({"form": form, "requests": agreement.requests, "same": same})
            print(f"{form}: {same} of {agreement.requests} replies are the same", flush=True)
            if agreement.differences:
                print(f"  first difference: {agreement.differences[0]}", flush=True)
    print(json.dumps(rows))
    if given.output:
        Path(given.output).write_text(json.dumps(rows) + "\n", "utf-8")


if __name__ == "__main__":
    main()
