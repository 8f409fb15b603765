"""What tuning may have cost: held-out chat by loss, and a small set of instructions a program can check."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

from toolweave.data.catalogue import TEST_CHATS, load_catalogue
from toolweave.evals.cache import CountingClient, Metered, ReplyCache, Source
from toolweave.evals.cases import Line
from toolweave.evals.score import Failure, VisitResult
from toolweave.evals.targets import Target
from toolweave.types import Lang, Message

_CHINESE = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class Instruction:
    """A prompt, and what a reply to it must satisfy."""

    id: str
    lang: Lang
    prompt: str
    checks: Mapping[str, Any]

    def followed(self, reply: str) -> bool:
        """Tell whether a reply satisfies every check."""
        return all(_CHECKS[name](reply.strip(), wanted) for name, wanted in self.checks.items())


@cache
def load_instructions() -> tuple[Instruction, ...]:
    """Return the embedded instructions."""
    text = (resources.files("toolweave.evals") / "instructions.yaml").read_text("utf-8")
    rows = yaml.load(text, yaml.CSafeLoader)
    return tuple(
        Instruction(f"instruction-{lang}-{number:02d}", lang, row["prompt"], row["checks"])
        for lang in Lang
        for number, row in enumerate(rows[lang])
    )


def run_instructions(target: Target, replies: ReplyCache, concurrency: int = 8) -> list[VisitResult]:
    """Ask every instruction as plain chat, without tools or role, and return the results as visits."""
    settings = dict(target.llm.get("generate_cfg") or {})
    source = Source(CountingClient(target.llm), target.model_id, settings)

    def ask(item: Instruction) -> VisitResult:
        meter = Metered(source, replies)
        reply = "".join(meter.complete([Message(role="user", content=item.prompt)], ()))
        spent = meter.replies[0]
        followed, stopped = item.followed(reply), spent.finish == "stop"
        return VisitResult(
            id=item.id,
            line=Line.INSTRUCTION,
            lang=item.lang,
            called=True,
            right=followed,
            faithful=True,
            stopped=stopped,
            query=item.prompt,
            calls=(),
            answer=reply,
            transcript=reply,
            reference=json.dumps(item.checks, ensure_ascii=False),
            failures=tuple(
                [str(Failure.INSTRUCTION)] * (not followed) + [str(Failure.CUT_OFF)] * (not stopped),
            ),
            seconds=spent.seconds,
            model_calls=1,
            prompt_tokens=spent.prompt_tokens,
            completion_tokens=spent.completion_tokens,
            cached=meter.made == 0,
        )

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(ask, load_instructions()))


def chat_losses(model: str) -> dict[str, float]:
    """Return the mean loss per token of each held-out chat answer, end token among them. Loads the model here."""
    # Here, as evaluations that ask a server need no torch, which takes seconds to load.
    import torch

    from toolweave.models.base_models import load

    loaded = load(model)
    losses = {}
    for lang in Lang:
        for number, pair in enumerate(load_catalogue().chat[lang][-TEST_CHATS:]):
            prompt = loaded.template.prompt_ids([Message(role="user", content=pair["q"])])
            answer = loaded.template.completion_ids(pair["a"])
            with torch.no_grad():
                logits = loaded.model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].float()
            losses[f"chat-{lang}-{number:02d}"] = float(torch.nn.functional.cross_entropy(logits, torch.tensor(answer)))
    return losses


def _json_keys(reply: str, keys: list[str]) -> bool:
    body = re.sub(r"^```(?:json)?\s*|\s*```$", "", reply)
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and set(keys) <= content.keys()


def _bullets(reply: str, wanted: int) -> bool:
    return sum(line.lstrip().startswith("- ") for line in reply.splitlines()) == wanted


def _script(reply: str, lang: str) -> bool:
    return bool(reply) and bool(_CHINESE.search(reply)) == (lang == Lang.ZH)


_CHECKS: dict[str, Callable[[str, Any], bool]] = {
    "contains": lambda reply, words: all(word in reply for word in words),
    "lacks": lambda reply, words: not any(word in reply for word in words),
    "starts": lambda reply, words: reply.startswith(tuple(words)),
    "ends": lambda reply, words: reply.endswith(tuple(words)),
    "max_chars": lambda reply, limit: len(reply) <= limit,
    "min_chars": lambda reply, limit: len(reply) >= limit,
    "max_words": lambda reply, limit: len(reply.split()) <= limit,
    "lines": lambda reply, wanted: len([line for line in reply.splitlines() if line.strip()]) == wanted,
    "bullets": _bullets,
    "json_keys": _json_keys,
    "matches": lambda reply, pattern: re.fullmatch(pattern, reply) is not None,
    "lower": lambda reply, _: reply == reply.lower(),
    "script": _script,
    "count": lambda reply, wanted: all(
        len(re.findall(rf"\b{word}\b", reply, re.IGNORECASE)) == times for word, times in wanted.items()
    ),
}
