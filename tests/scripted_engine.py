"""A server whose model says what a test tells it to, token by token, through the real engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import uvicorn
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tiny import byte_tokenizer
from toolweave.models.base_models import LoadedModel
from toolweave.models.template import ChatTemplate
from toolweave.serving.app import create_app
from toolweave.serving.attention import Segment
from toolweave.serving.engine import Engine
from toolweave.serving.generation import FinishReason

TEMPLATE = ChatTemplate(byte_tokenizer())


def random_model(template: ChatTemplate = TEMPLATE) -> LoadedModel:
    """A random model that only ever speaks ASCII when it is free to."""
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        vocab_size=len(TEMPLATE.tokenizer),
        max_position_embeddings=16384,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = LlamaForCausalLM(config).float().eval()
    return LoadedModel(model, template)


class ScriptedEngine(Engine):
    """Says the reply whose key the prompt contains; after it, or without one, the random model speaks."""

    def __init__(
        self,
        replies: Mapping[str, str],
        *,
        ends: bool = True,
        pause: float = 0.0,
        template: ChatTemplate = TEMPLATE,
        **options: int,
    ) -> None:
        self.prompts: list[str] = []
        self._scripts = {
            key: [*TEMPLATE.completion_ids(reply)][: None if ends else -1] for key, reply in replies.items()
        }
        self._pause = pause
        super().__init__(random_model(template), max_length=options.pop("max_length", 16384), **options)

    def submit(self, prompt_ids: Any, *args: Any, **options: Any) -> Any:
        self.prompts.append(TEMPLATE.tokenizer.decode(prompt_ids))
        return super().submit(prompt_ids, *args, **options)

    def _take(self, segment: Segment, logits: Tensor, best: int) -> FinishReason | None:
        row = self._rows[segment.row]
        prompt = TEMPLATE.tokenizer.decode(row.generation.prompt)
        said = len(row.tokens) - len(row.generation.prompt)
        script = next((script for key, script in self._scripts.items() if key in prompt), [])
        if said < len(script):
            best = script[said]
            logits = torch.full_like(logits, -50.0)
            logits[best] = 50.0
        time.sleep(self._pause)
        return super()._take(segment, logits, best)


@contextmanager
def served(engine: Engine, **options: Any) -> Iterator[str]:
    """Serve an engine as `tiny` and yield the base URL; the engine is closed, too."""
    app = create_app(engine, "tiny", options.pop("dialect", "v07"), **options)
    config = uvicorn.Config(app, port=0, log_level="error", ws="none", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        engine.close()
