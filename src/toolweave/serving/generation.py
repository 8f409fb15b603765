"""One request as its caller sees it, and how its tokens are chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from queue import Empty, SimpleQueue

import torch
from torch import Tensor

from toolweave.errors import ToolweaveError


class RequestError(ToolweaveError):
    """A request that the engine cannot serve as it is."""


class FinishReason(StrEnum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens and when to stop. Raises RequestError when out of range.

    `temperature` 0 is greedy. `top_k` 0 keeps all tokens. Without `seed` every run differs.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int = 512
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checks = {
            "temperature": 0 <= self.temperature < float("inf"),
            "top_p": 0 < self.top_p <= 1,
            "top_k": self.top_k >= 0,
            "seed": self.seed is None or -(2**63) <= self.seed < 2**63,
            "max_tokens": self.max_tokens >= 1,
        }
        for name, fine in checks.items():
            if not fine:
                raise RequestError(f"{name} is out of range: {getattr(self, name)}")

    def generator(self, device: torch.device) -> torch.Generator:
        """Return the random numbers of one request."""
        generator = torch.Generator(device)
        if self.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.seed)
        return generator

    def sample(self, logits: Tensor, generator: torch.Generator) -> int:
        """Choose a token by logits [vocabulary]."""
        scores, ids = (logits.float() / self.temperature).sort(descending=True)
        if self.top_k:
            scores = scores[: self.top_k]
        probabilities = scores.softmax(-1)
        if self.top_p < 1:
            before = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities[before < self.top_p]
        return int(ids[torch.multinomial(probabilities, 1, generator=generator)])


@dataclass(slots=True)
class Usage:
    """Token counts of a request. `cached_tokens` of the prompt were not computed again."""

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int = 0


class Generation:
    """A running request: iterate for text deltas (blocking), `cancel()` to give it up.

    After the last delta `finish_reason` is set and `usage` is final. Iterating raises ServerError
    when the engine failed or was closed.
    """

    def __init__(self, prompt: Sequence[int], params: SamplingParams) -> None:
        self.prompt = list(prompt)
        self.params = params
        self.usage = Usage(len(self.prompt))
        self.finish_reason: FinishReason | None = None
        self.cancelled = False
        self._deltas: SimpleQueue[str | FinishReason | ToolweaveError] = SimpleQueue()

    def __iter__(self) -> Iterator[str]:
        """Yield text as it comes; what came at once comes in one piece."""
        while self.finish_reason is None:
            items = [self._deltas.get()]
            while True:
                try:
                    items.append(self._deltas.get_nowait())
                except Empty:
                    break
            # A FinishReason is a string, too.
            end = items.pop() if isinstance(items[-1], FinishReason | ToolweaveError) else None
            if text := "".join(item for item in items if isinstance(item, str)):
                yield text
            if isinstance(end, FinishReason):
                self.finish_reason = end
            elif isinstance(end, ToolweaveError):
                self.finish_reason = FinishReason.CANCELLED
                raise end

    def cancel(self) -> None:
        """Give the request up: its place is free after the step that runs now."""
        self.cancelled = True

    def put(self, delta: str) -> None:
        """Deliver text (the engine's side)."""
        if delta:
            self._deltas.put(delta)

    def end(self, how: FinishReason | ToolweaveError) -> None:
        """Deliver the end (the engine's side)."""
        self._deltas.put(how)
