"""General chat and self-cognition rows, mixed in so that a tuned model can still just talk."""

from __future__ import annotations

import random
from itertools import cycle, islice
from typing import NamedTuple

from toolweave.data.catalogue import load_catalogue
from toolweave.types import Lang, Message, Sample

# The last pairs of every chat list are for testing (see synthesize.py).
_TEST_CHATS = 30


class Persona(NamedTuple):
    """Who the tuned model says it is, and who made it."""

    name: str = "toolweave"
    author: str = "toolweave"


def chat_samples(count: int, seed: int = 0) -> list[Sample]:
    """Return `count` general chats, both languages in turn, each pair once before any twice."""
    chats = load_catalogue().chat
    pairs = {lang: [(pair["q"], pair["a"]) for pair in chats[lang][:-_TEST_CHATS]] for lang in Lang}
    return _alternate(pairs, count, seed, "chat")


def self_cognition_samples(count: int, persona: Persona, seed: int = 0) -> list[Sample]:
    """Return `count` questions about the model itself, answered as `persona`."""

    def speak(text: str) -> str:
        return text.replace("{{NAME}}", persona.name).replace("{{AUTHOR}}", persona.author)

    rows = load_catalogue().self_cognition
    pairs = {lang: [(pair["q"], speak(pair["a"])) for pair in rows[lang]] for lang in Lang}
    return _alternate(pairs, count, seed, "self_cognition")


def _alternate(pairs: dict[Lang, list[tuple[str, str]]], count: int, seed: int, kind: str) -> list[Sample]:
    rng = random.Random(seed)
    streams = {}
    for lang, items in pairs.items():
        order = list(items)
        rng.shuffle(order)
        streams[lang] = cycle(order)
    samples: list[Sample] = []
    for lang in islice(cycle(Lang), count):
        question, answer = next(streams[lang])
        messages = (Message(role="user", content=question),)
        samples.append(Sample(messages, answer, meta={"kind": kind, "lang": lang}))
    return samples
