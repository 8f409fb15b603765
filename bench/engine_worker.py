"""One library in a process of its own, for bench/engines.py; needs nothing but that library.

    python bench/engine_worker.py transformers MODEL_FOLDER
    python bench/engine_worker.py llama_cpp FILE.gguf

Says `{"ready": true}`, then answers each line `{"prompts": [[ids]], "tokens": n}` with
`{"first": seconds to the first token, "seconds": all, "tokens": made, "ids": [[made]]}`. Prompts go in one batch where
the library can. `llama_cpp_f32` keeps keys and values in float32, as parity needs it, where llama.cpp takes float16.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

Measure = Callable[[list[list[int]], int], dict[str, Any]]


def transformers(folder: str) -> Measure:
    import torch
    from transformers import AutoModelForCausalLM

    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    dtype = torch.bfloat16 if fast else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()

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
        return {
            "first": (streamer.at if streamer else ended) - started,
            "seconds": ended - started,
            "tokens": made[:, longest:].numel(),
            "ids": made[:, longest:].tolist(),
        }

    return measure


def llama_cpp(path: str, **options: Any) -> Measure:
    from llama_cpp import Llama

    model = Llama(path, n_ctx=2048, verbose=False, **options)

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
        seconds = time.perf_counter() - started
        return {"first": first - started, "seconds": seconds, "tokens": sum(map(len, replies)), "ids": replies}

    return measure


def llama_cpp_f32(path: str) -> Measure:
    return llama_cpp(path, type_k=0, type_v=0)


LIBRARIES = {"transformers": transformers, "llama_cpp": llama_cpp, "llama_cpp_f32": llama_cpp_f32}


def main() -> None:
    measure = LIBRARIES[sys.argv[1]](sys.argv[2])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(measure(asked["prompts"], asked["tokens"])), flush=True)


if __name__ == "__main__":
    main()
