"""One library in a process of its own, for bench/engines.py; needs nothing but that library.

    python bench/engine_worker.py transformers MODEL_FOLDER
    python bench/engine_worker.py llama_cpp FILE.gguf

Says `{"ready": true}`, then answers each line `{"prompts": [[ids]], "tokens": n}` with
`{"first": seconds to the first token, "seconds": all, "tokens": made, "ids": [[made]]}`. Prompts go in one batch where
the library can. `llama_cpp_f32` keeps keys and values in float32, as parity needs it, where llama.cpp takes float16.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import takewhile
from typing import Any

Measure = Callable[[list[list[int]], int], dict[str, Any]]


def measured(started: float, first: float, replies: list[list[int]]) -> dict[str, Any]:
    seconds = time.perf_counter() - started
    return {"first": first - started, "seconds": seconds, "tokens": sum(map(len, replies)), "ids": replies}


def threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))


def best_dtype() -> Any:
    import torch

    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def transformers(folder: str) -> Measure:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=best_dtype()).eval()

    class FirstToken:
        """A streamer that only notes when the first token came; the prompt comes before it."""

        def __init__(self) -> None:
            self.seen = 0
            self.at = 0.0

        def put(self, _: Any) -> None:
            self.seen += 1
            if self.seen == 2:
                self.at = time.perf_counter()

        def end(self) -> None:
            pass

    @torch.inference_mode()
    def measure(prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        streamer = FirstToken() if len(prompts) == 1 else None
        started = time.perf_counter()
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
            streamer=streamer,
        )
        ended = time.perf_counter()
        return measured(started, streamer.at if streamer else ended, made[:, longest:].tolist())

    return measure


def llama_cpp(path: str, **options: Any) -> Measure:
    from llama_cpp import Llama

    model = Llama(path, n_ctx=2048, n_threads=threads(), n_threads_batch=threads(), verbose=False, **options)

    def measure(prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        started, first = time.perf_counter(), 0.0
        replies: list[list[int]] = []
        for prompt in prompts:
            made: list[int] = []
            for token in model.generate(prompt, temp=0.0, repeat_penalty=1.0):
                first = first or time.perf_counter()
                made.append(token)
                if len(made) == tokens:
                    break
            replies.append(made)
        return measured(started, first, replies)

    return measure


def llama_cpp_f32(path: str) -> Measure:
    return llama_cpp(path, type_k=0, type_v=0)


def batching(folder: str) -> Measure:
    """Transformers' own continuous batching, whose paged cache shares prefixes."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=best_dtype(), attn_implementation="sdpa").eval()
    generation = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
    paged = ContinuousBatchingConfig(num_blocks=128, max_batch_tokens=2048)
    manager = model.init_continuous_batching(generation, paged)
    manager.start()

    def measure(prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        started = time.perf_counter()
        with torch.inference_mode():
            names = [manager.add_request(prompt, max_new_tokens=tokens, streaming=True) for prompt in prompts]
        first, replies = 0.0, {name: list[int]() for name in names}
        open_ = set(names)
        while open_:
            said = manager.get_result(timeout=600)
            if said is None or said.error:
                raise RuntimeError(said.error if said else "the loop has ended")
            first = first or time.perf_counter()
            replies[said.request_id] = said.generated_tokens
            open_ -= {said.request_id} if said.is_finished() else set()
        return measured(started, first, list(replies.values()))

    return measure


def ctranslate2(folder: str) -> Measure:
    """CTranslate2 on a folder of its converter; what all prompts so far share is its static prompt, which it keeps."""
    from pathlib import Path

    from ctranslate2 import Generator

    words: list[str] = json.loads((Path(folder) / "vocabulary.json").read_text("utf-8"))
    model = Generator(folder, device="cpu", compute_type="default", intra_threads=threads())

    shared: list[str] = []

    def measure(prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        nonlocal shared
        told = [[words[token] for token in prompt] for prompt in prompts]
        columns = zip(shared or told[0][:-1], *told, strict=False)
        shared = [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]
        firsts: list[float] = []
        started = time.perf_counter()
        results = model.generate_batch(
            [prompt[len(shared) :] for prompt in told],
            static_prompt=shared,
            max_length=tokens,
            min_length=tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=(lambda step: firsts.append(time.perf_counter()) and False) if len(told) == 1 else None,
        )
        ended = time.perf_counter()
        return measured(started, firsts[0] if firsts else ended, [result.sequences_ids[0] for result in results])

    return measure


def openvino(path: str) -> Measure:
    """OpenVINO GenAI's continuous batching on a GGUF file, with its prefix cache."""
    import numpy as np
    from openvino import Tensor
    from openvino_genai import ContinuousBatchingPipeline, GenerationConfig, SchedulerConfig

    scheduler = SchedulerConfig()
    scheduler.cache_size = 1  # GB
    scheduler.enable_prefix_caching = True
    model = ContinuousBatchingPipeline(path, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads()})

    def measure(prompts: list[list[int]], tokens: int) -> dict[str, Any]:
        config = GenerationConfig(max_new_tokens=tokens, ignore_eos=True, do_sample=False)
        started, first = time.perf_counter(), 0.0
        handles = [model.add_request(i, Tensor(np.array([prompt])), config) for i, prompt in enumerate(prompts)]
        replies: list[list[int]] = [[] for _ in prompts]
        while model.has_non_finished_requests():
            model.step()
            for reply, handle in zip(replies, handles, strict=True):
                if handle.can_read():
                    first = first or time.perf_counter()
                    reply += [token for output in handle.read().values() for token in output.generated_ids]
        return measured(started, first, replies)

    return measure


LIBRARIES: dict[str, Callable[[str], Measure]] = {
    "transformers": transformers,
    "batching": batching,
    "llama_cpp": llama_cpp,
    "llama_cpp_f32": llama_cpp_f32,
    "ctranslate2": ctranslate2,
    "openvino": openvino,
}


def main() -> None:
    measure = LIBRARIES[sys.argv[1]](sys.argv[2])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(measure(asked["prompts"], asked["tokens"])), flush=True)


if __name__ == "__main__":
    main()
