"""The parity gate: the model that was trained is the model that answers, token for token.

The same requests go through every form of a model; the first token that differs stops a release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from toolweave.data.synthesize import held_out_episodes
from toolweave.dialects import get_dialect
from toolweave.errors import ModelError
from toolweave.models.base_models import LoadedModel, load
from toolweave.models.template import ChatTemplate
from toolweave.types import Sample

Reply = Callable[[Sample], list[int]]
"""Says the greedy reply of one form of the model to a request, as tokens."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two forms of a model part: request number, token number, and both texts from there on."""

    request: int
    token: int
    expected: str
    got: str

    def __str__(self) -> str:
        return f"request {self.request}, token {self.token}: {self.got!r} instead of {self.expected!r}"


@dataclass(frozen=True, slots=True)
class Agreement:
    """How one form of a model agrees with the reference."""

    form: str
    requests: int
    differences: tuple[Difference, ...]

    def check(self) -> None:
        """Raise ModelError with the first difference, unless there is none."""
        if self.differences:
            raise ModelError(
                f"{self.form} is not the model that was trained: {len(self.differences)} of {self.requests} replies "
                f"differ; {self.differences[0]}",
                "do not release it",
            )


def parity_requests(count: int = 50) -> list[Sample]:
    """Return the fixed visit requests, spread over the held-out visits: first calls and answers after a result."""
    samples = [
        sample for episode in held_out_episodes() for sample in get_dialect(episode.meta["dialect"]).render(episode)
    ]
    return [samples[index * len(samples) // count] for index in range(count)]


def compare(
    form: str, requests: Sequence[Sample], expected: Sequence[list[int]], reply: Reply, template: ChatTemplate
) -> Agreement:
    """Ask one form of the model all requests and compare with what is expected."""
    return Agreement(form, len(requests), tuple(_differences(requests, expected, reply, template)))


def _differences(
    requests: Sequence[Sample], expected: Sequence[list[int]], reply: Reply, template: ChatTemplate
) -> Iterator[Difference]:
    for number, (request, wanted) in enumerate(zip(requests, expected, strict=True)):
        got = reply(request)
        if got != wanted:
            limit = min(len(got), len(wanted))
            at = next((index for index in range(limit) if got[index] != wanted[index]), limit)
            decode = template.tokenizer.decode
            yield Difference(number, at, str(decode(wanted[at : at + 8])), str(decode(got[at : at + 8])))


def reply_tokens(text: str, template: ChatTemplate) -> list[int]:
    """Return the tokens of a reply that came as text, for servers that tell no tokens."""
    return template.completion_ids(text)[:-1]


def greedy(model: PreTrainedModel | PeftModel, template: ChatTemplate, max_tokens: int) -> Reply:
    """Return how a model in this process replies, by transformers' own generation: the reference."""

    @torch.no_grad()
    def reply(request: Sample) -> list[int]:
        ids = torch.tensor([template.request_ids(request)])
        generate = cast(Callable[..., torch.Tensor], model.generate)
        generated = generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=template.end_id,
            pad_token_id=template.end_id,
        )
        made = cast(list[int], generated[0, ids.shape[1] :].tolist())
        return made[: made.index(template.end_id)] if template.end_id in made else made

    return reply


def load_adapter(ckpt_dir: Path, base: str) -> tuple[PeftModel, LoadedModel]:
    """Return an adapter on its base in float32, and that base."""
    loaded = load(base, torch.float32)
    return PeftModel.from_pretrained(loaded.model, str(ckpt_dir)).eval(), loaded
