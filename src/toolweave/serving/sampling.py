"""How the tokens of one request are chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from toolweave.errors import ToolweaveError

if TYPE_CHECKING:
    # Whoever only reads requests needs no torch, which takes seconds to load.
    from torch import Generator, Tensor


class RequestError(ToolweaveError):
    """A request that the engine cannot serve as it is."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to choose tokens and when to stop. Raises RequestError when out of range.

    `temperature` 0 is greedy. `top_k` 0 keeps all tokens. Without `seed` every run differs.
    `logprobs` None reports none; k reports each token's log-probability and the k likeliest.
    `ignore_eos` goes on after the model's end token, to measure speed as with vLLM.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        checks = {
            "temperature": 0 <= self.temperature < float("inf"),
            "top_p": 0 < self.top_p <= 1,
            "top_k": self.top_k >= 0,
            "seed": self.seed is None or -(2**63) <= self.seed < 2**63,
            "max_tokens": self.max_tokens >= 1,
            "logprobs": self.logprobs is None or 0 <= self.logprobs <= 20,
        }
        for name, fine in checks.items():
            if not fine:
                raise RequestError(f"{name} is out of range: {getattr(self, name)}")

    def sample(self, logits: Tensor, generator: Generator) -> int:
        """Choose a token by logits [vocabulary]."""
        scores, ids = (logits.float() / self.temperature).sort(descending=True)
        if self.top_k:
            scores = scores[: self.top_k]
        probabilities = scores.softmax(-1)
        if self.top_p < 1:
            before = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities[before < self.top_p]
        return int(ids[probabilities.multinomial(1, generator=generator)])
