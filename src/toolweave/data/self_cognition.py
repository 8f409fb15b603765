"""Questions about the model itself, answered with the name and author that the user chose."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from toolweave.data.catalogue import load_catalogue
from toolweave.data.jsonl import read_jsonl
from toolweave.errors import DataError
from toolweave.types import Lang, Message, Sample

_SEED = 42
KIND = "self_cognition"
"""The `kind` in the meta of these samples."""


@dataclass(frozen=True, slots=True)
class Persona:
    """Who the tuned model says it is and who made it: a name, or one for zh and one for en."""

    name: str | tuple[str, str] = "toolweave"
    author: str | tuple[str, str] = "toolweave"

    def __post_init__(self) -> None:
        for option, value in (("model_name", self.name), ("model_author", self.author)):
            texts = [value] if isinstance(value, str) else list(value)
            if len(texts) not in (1, 2) or not all(texts):
                raise DataError(f"--{option} must be one text, or a Chinese and an English one, not {value!r}")

    def fill(self, text: str, lang: Lang) -> str:
        """Put name and author into a template."""
        name, author = _spoken(self.name, lang), _spoken(self.author, lang)
        return text.replace("{{NAME}}", name).replace("{{AUTHOR}}", author)


def self_cognition_samples(
    count: int, persona: Persona, seed: int = _SEED, templates: Path | None = None
) -> list[Sample]:
    """Return `count` samples: each template once, the rest drawn with replacement.

    Templates come from the catalogue, or from a file of SWIFT's rows: query, response, tag (zh or en).
    With fewer wanted than there are templates, that many different ones are drawn.
    """
    rows = _catalogue() if templates is None else _rows(templates)
    if not rows or count < 0:
        raise DataError(f"cannot draw {count} self-cognition samples", "give a count of at least 0, and templates")
    rng = random.Random(seed)
    order = rng.sample(rows, min(count, len(rows)))
    drawn = order + rng.choices(rows, k=count - len(order))
    return [
        Sample(
            (Message(role="user", content=persona.fill(query, lang)),),
            persona.fill(response, lang),
            meta={"kind": KIND, "lang": lang},
        )
        for query, response, lang in drawn
    ]


def _spoken(value: str | tuple[str, str], lang: Lang) -> str:
    return value if isinstance(value, str) else value[0 if lang is Lang.ZH else 1]


def _catalogue() -> list[tuple[str, str, Lang]]:
    rows = load_catalogue().self_cognition
    return [(pair["q"], pair["a"], lang) for lang in Lang for pair in rows[lang]]


def _rows(path: Path) -> list[tuple[str, str, Lang]]:
    rows = []
    for line, row in read_jsonl(path):
        query, response, tag = row.get("query"), row.get("response"), row.get("tag")
        if not isinstance(query, str) or not isinstance(response, str) or tag not in list(Lang):
            raise DataError(f"{path}, line {line}: not a template", "a template has query, response and tag: zh or en")
        rows.append((query, response, Lang(tag)))
    return rows
