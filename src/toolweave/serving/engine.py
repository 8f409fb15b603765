"""The embedded engine: continuous batching over any transformers causal LM, with prefix reuse.

One worker thread owns the model. Each step takes one new token of every running request and as many
prompt tokens as fit, in one flat batch. Finished prompts stay in a radix tree; a later request copies
the keys and values that it shares and only computes what is new.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import cast

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from toolweave.errors import ModelError, ServerError, ToolweaveError
from toolweave.models.base_models import LoadedModel
from toolweave.serving import attention
from toolweave.serving.attention import Segment, Step
from toolweave.serving.generation import FinishReason, Generation, Piece, TokenLogprob
from toolweave.serving.grammar import GuideError
from toolweave.serving.guide import Guides
from toolweave.serving.kv_cache import SlotCache
from toolweave.serving.packing import pack, unpack
from toolweave.serving.prefix_cache import PrefixCache, common_length
from toolweave.serving.sampling import RequestError, SamplingParams
from toolweave.serving.text import TextStream

_STEP_TOKENS = 1024  # of prompts in one step, so that a long prompt does not halt the others for long
_WORTH_WAITING = 64  # tokens that another request computes now, so that this one need not


@dataclass(slots=True)
class _Row:
    """A running request. Its row in the cache holds the first `computed` tokens."""

    generation: Generation
    tokens: list[int]
    computed: int
    text: TextStream
    random: torch.Generator

    @property
    def prefilling(self) -> bool:
        return self.computed < len(self.generation.prompt)


class Engine:
    """Serves `loaded` until closed; meanwhile the model computes for the engine alone.

    At most `max_batch` requests run at once, others wait. A prompt and its reply together have at most
    `max_length` tokens (less if the model knows fewer positions). `cache_tokens` prompt tokens are
    kept for reuse, 0 for none. Raises ModelError for models without plain attention in every layer.
    """

    def __init__(
        self, loaded: LoadedModel, *, max_batch: int = 16, max_length: int = 4096, cache_tokens: int = 32768
    ) -> None:
        self.model, self.template = loaded
        config = self.model.config.get_text_config()
        self.max_length = _usable_length(config, max_length)
        self.max_batch = max_batch
        self._cache = SlotCache(config, max_batch, self.max_length, self.model.device, self.model.dtype)
        self._prefixes = PrefixCache(cache_tokens)
        self._end_ids = {self.template.end_id, *_ids(getattr(self.model.generation_config, "eos_token_id", None))}
        self._vocabulary: int = config.vocab_size
        self._guides = Guides(self.template.tokenizer, self._vocabulary, sorted(self._end_ids))
        self._rows: list[_Row] = []
        self._waiting: deque[Generation] = deque()
        self._inbox: SimpleQueue[Generation | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._former_attention = self.model.config._attn_implementation
        self.model.set_attn_implementation(attention.NAME)
        pack(self.model)
        self._worker = threading.Thread(target=self._run, name="toolweave-engine", daemon=True)
        self._worker.start()

    @property
    def running(self) -> int:
        """How many requests hold a place in the batch now."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """How many requests wait for a place."""
        return len(self._waiting) + self._inbox.qsize()

    @property
    def cached_tokens(self) -> int:
        """How many prompt tokens are kept for reuse now."""
        return self._prefixes.tokens

    def submit(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams | None = None,
        *,
        grammar: str | None = None,
        said: Sequence[str] = (),
        strict: bool = True,
        seconds: float | None = None,
    ) -> Generation:
        """Start a request. `grammar` (llguidance's Lark) limits the reply, `seconds` its time.

        Where the grammar leaves a call's text free, it leans towards the words of `said`.
        Raises RequestError for an empty, too long or unknown prompt, ServerError when closed. A grammar that cannot be
        followed, from the start or from some token on, is a GuideError if `strict`, else the reply is free from there.
        """
        if not prompt_ids:
            raise RequestError("the prompt is empty")
        if len(prompt_ids) > self.max_length - 1:
            raise RequestError(
                f"the prompt has {len(prompt_ids)} tokens; at most {self.max_length - 1} fit, "
                f"as prompt and reply together have {self.max_length}",
                "shorten the history or the knowledge",
            )
        if strange := next((token for token in prompt_ids if not 0 <= token < self._vocabulary), None):
            raise RequestError(f"the model knows no token {strange}; its tokens are 0 to {self._vocabulary - 1}")
        guide = None
        if grammar:
            with nullcontext() if strict else suppress(GuideError):
                guide = self._guides.start(grammar, said, strict=strict)
        generation = Generation(prompt_ids, params or SamplingParams(), guide, seconds)
        with self._lock:
            if self._closed:
                raise ServerError("the engine is closed")
            self._inbox.put(generation)
        return generation

    def close(self) -> None:
        """Stop; running requests end with ServerError. The model can then be used for other things."""
        with self._lock:
            self._closed = True
        self._inbox.put(None)
        self._worker.join()
        unpack(self.model)
        self.model.set_attn_implementation(self._former_attention)

    @torch.inference_mode()
    def _run(self) -> None:
        while self._receive():
            try:
                self._drop_given_up()
                self._admit()
                if self._rows:
                    self._step()
            except Exception as error:  # whatever a model raises ends its requests, not the server
                self._fail(_explained(error))
        self._fail(ServerError("the engine was closed"))

    def _receive(self) -> bool:
        """Take new requests, waiting for one if there is nothing to do. Return false when closing."""
        while not self._inbox.empty() or not (self._rows or self._waiting):
            generation = self._inbox.get()
            if generation is None:
                return False
            self._waiting.append(generation)
        return True

    def _fail(self, error: ToolweaveError) -> None:
        while not self._inbox.empty():
            if (late := self._inbox.get()) is not None:
                self._waiting.append(late)
        for generation in (*self._waiting, *(row.generation for row in self._rows)):
            generation.end(error)
        self._waiting.clear()
        self._rows.clear()

    def _drop_given_up(self) -> None:
        """End the requests whose client is gone or whose time is over."""
        for generation in tuple(self._waiting):
            if (end := generation.given_up()) is not None:
                self._waiting.remove(generation)
                generation.end(end)
        for row in tuple(self._rows):
            if (end := row.generation.given_up()) is not None:
                self._remove(row, end)

    def _admit(self) -> None:
        for generation in tuple(self._waiting):
            if len(self._rows) == self.max_batch:
                return
            prompt = generation.prompt
            # The last token is always computed: its output is the first thing to sample from.
            node = self._prefixes.match(prompt[:-1])
            if self._is_being_computed(prompt, node.end):
                continue
            generation.usage.cached_tokens = node.end
            row = _Row(
                generation,
                list(prompt),
                computed=node.end,
                text=TextStream(self.template.tokenizer, generation.params.stop),
                random=_random(generation.params.seed, self.model.device),
            )
            for start, kv in node.pieces():
                self._cache.load(len(self._rows), start, kv)
            self._rows.append(row)
            self._waiting.remove(generation)

    def _is_being_computed(self, prompt: Sequence[int], known: int) -> bool:
        """Tell whether a running request computes a good part of this prompt now: worth waiting for."""
        if self._prefixes.max_tokens == 0:
            return False
        return any(
            row.prefilling and common_length(row.generation.prompt, prompt) >= known + _WORTH_WAITING
            for row in self._rows
        )

    def _step(self) -> None:
        """Compute the next token of every request; one that makes the model fail ends alone."""
        try:
            self._advance(range(len(self._rows)))
        except Exception as error:
            if len(self._rows) == 1:
                self._remove(self._rows[0], _explained(error))
                return
            # Nothing has been taken from the failed step, so each request can take it by itself.
            for row in tuple(self._rows):
                try:
                    self._advance([self._index(row)])
                except Exception as own_error:
                    self._remove(row, _explained(own_error))

    def _advance(self, indices: Sequence[int]) -> None:
        """Run the model on the next tokens of some rows, and deliver what it says."""
        segments, tokens = self._schedule(indices)
        device = self.model.device
        step = Step.of(self._cache, segments)
        logits: Tensor = self.model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=step.places.unsqueeze(0),
            use_cache=False,
            logits_to_keep=torch.tensor([segment.stop - 1 for segment in segments], device=device),
            step=step,
        ).logits[0]
        greedy = logits.argmax(-1).tolist()
        ended: list[tuple[_Row, FinishReason | ToolweaveError]] = []
        for index, (segment, best) in enumerate(zip(segments, greedy, strict=True)):
            row = self._rows[segment.row]
            try:
                reason = self._take(segment, logits[index], best)
            except Exception as error:
                ended.append((row, _explained(error)))
            else:
                if reason is not None:
                    ended.append((row, reason))
        for row, end in ended:
            self._remove(row, end)

    def _take(self, segment: Segment, logits: Tensor, best: int) -> FinishReason | None:
        """Take what the model computed for one row; `best` is its likeliest token."""
        row = self._rows[segment.row]
        was_prefilling = row.prefilling
        row.computed += segment.stop - segment.start
        if row.prefilling:
            return None
        if was_prefilling:
            self._prefixes.insert(row.generation.prompt, lambda start, stop: self._cache.read(segment.row, start, stop))
        params, guide = row.generation.params, row.generation.guide
        allowed = logits if guide is None else guide.limit(logits, self._left(row))
        if params.temperature > 0:
            token = params.sample(allowed, row.random)
        else:
            token = best if guide is None else int(allowed.argmax())
        if guide is not None:
            guide.accept(token)
        measured = None if params.logprobs is None else TokenLogprob.of(token, logits, params.logprobs)
        return self._deliver(row, token, measured)

    def _schedule(self, indices: Sequence[int]) -> tuple[list[Segment], list[int]]:
        """Return the segments of the next step and the tokens of its flat batch."""
        segments: list[Segment] = []
        tokens: list[int] = []
        room = _STEP_TOKENS
        for index in indices:
            row = self._rows[index]
            count = min(len(row.tokens) - row.computed, room) if row.prefilling else 1
            if count == 0:
                continue
            room -= count if row.prefilling else 0
            segments.append(Segment(index, len(tokens), len(tokens) + count, row.computed))
            tokens += row.tokens[row.computed : row.computed + count]
        return segments, tokens

    def _deliver(self, row: _Row, token: int, measured: TokenLogprob | None) -> FinishReason | None:
        """Take a new token and deliver its text; return the reason if the reply ends with it."""
        generation = row.generation
        logprobs = () if measured is None else (measured,)
        generation.usage.completion_tokens += 1
        if token in self._end_ids and not generation.params.ignore_eos:
            generation.put(Piece(row.text.flush(), logprobs))
            return FinishReason.STOP
        row.tokens.append(token)
        guide = generation.guide
        generation.put(Piece(row.text.push(token, may_stop=guide is None or guide.may_stop), logprobs))
        stopped = row.text.stopped or (guide is not None and guide.done)
        if not stopped and self._left(row):
            return None
        generation.put(Piece(row.text.flush()))
        return FinishReason.STOP if stopped else FinishReason.LENGTH

    def _left(self, row: _Row) -> int:
        """Return how many tokens a reply may still have."""
        generation = row.generation
        asked = generation.params.max_tokens - generation.usage.completion_tokens
        return max(0, min(asked, self.max_length - len(row.tokens)))

    def _index(self, row: _Row) -> int:
        return next(index for index, other in enumerate(self._rows) if other is row)

    def _remove(self, row: _Row, how: FinishReason | ToolweaveError) -> None:
        """End a request; the last row takes its place."""
        index = self._index(row)
        last = self._rows.pop()
        if last is not row:
            self._rows[index] = last
            self._cache.move(len(self._rows), index, last.computed)
        row.generation.end(how)


def _random(seed: int | None, device: torch.device) -> torch.Generator:
    """Return the random numbers of one request."""
    generator = torch.Generator(device)
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def _explained(error: Exception) -> ToolweaveError:
    return error if isinstance(error, ToolweaveError) else ServerError(f"the model failed: {error}")


def _ids(eos: int | list[int] | None) -> list[int]:
    return [] if eos is None else [eos] if isinstance(eos, int) else eos


def _usable_length(config: PreTrainedConfig, wanted: int) -> int:
    """Return how many tokens of context the model and the engine both support."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if other := kinds - {"full_attention", "sliding_attention"}:
        raise ModelError(
            f"the embedded server does not run {config.model_type}: it has layers of {', '.join(sorted(other))}",
            "serve this model with vLLM",
        )
    window = getattr(config, "sliding_window", None)
    # Inside its window sliding attention is full attention; beyond it the engine does not go.
    windowed = window if "sliding_attention" in kinds or (window and not hasattr(config, "layer_types")) else None
    limits = (wanted, getattr(config, "max_position_embeddings", None), windowed)
    return cast(int, min(limit for limit in limits if limit))
