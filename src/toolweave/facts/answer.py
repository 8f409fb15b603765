"""Whether an answer is faithful to what was observed, and if not, why."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import NamedTuple

from toolweave.facts import claims
from toolweave.facts.extract import compact, extract, states, unsupported
from toolweave.types import Lang

_MARKERS = re.compile(r"Action\s*(?:Input)?\s*[:：]|Observation\s*[:：]|</?result>|<\|im_|</?tool_call>")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_LETTERS = re.compile(r"[A-Za-z]")
# An observation with more facts than this is read out in part at best.
_FEW = 6


class Flaw(StrEnum):
    """How an answer fails."""

    SILENT = "silent"
    MARKERS = "markers"
    LANGUAGE = "language"
    INVENTED = "invented"
    MISSING = "missing"
    DENIAL = "denial"
    CLASH = "clash"
    HIDDEN_FAILURE = "hidden_failure"


class Finding(NamedTuple):
    """A flaw and the words that show it."""

    flaw: Flaw
    evidence: str


def check_answer(
    answer: str,
    observations: Sequence[str],
    context: Iterable[str] = (),
    facts: Iterable[str] | None = None,
    lang: Lang | None = None,
) -> list[Finding]:
    """Return what is wrong with an answer to a visit; empty means faithful.

    `observations` are what the tools returned, `context` is all else the answer may draw on (query, history,
    knowledge). `facts` are what it must state; without them it must state one of the few facts observed, if any.
    `lang` is the language it must be in.
    """
    if not answer.strip():
        return [Finding(Flaw.SILENT, "")]
    found = []
    if marker := _MARKERS.search(answer):
        found.append(Finding(Flaw.MARKERS, marker[0]))
    if lang is not None and not speaks(answer, lang):
        found.append(Finding(Flaw.LANGUAGE, answer[:40]))
    around = list(context)
    found += [Finding(Flaw.INVENTED, piece) for piece in unsupported(answer, [*observations, *around])]
    good = [observation for observation in observations if not claims.failed(observation)]
    if len(good) < len(observations) and not claims.admits_failure(answer):
        found.append(Finding(Flaw.HIDDEN_FAILURE, answer[:40]))
    if observations and len(good) == len(observations):
        if words := claims.denial(answer, observations):
            found.append(Finding(Flaw.DENIAL, words))
        if word := claims.clash(answer, observations, around):
            found.append(Finding(Flaw.CLASH, word))
    found += _missing(answer, good, facts)
    return found


def states_facts(answer: str, facts: Iterable[str]) -> bool:
    """Tell whether the answer carries every fact."""
    return not _missing(answer, (), facts)


def speaks(answer: str, lang: Lang) -> bool:
    """Tell whether an answer is in a language; names and codes of the other may stand in it."""
    chinese = bool(_CHINESE.search(answer))
    if lang is Lang.ZH:
        return chinese or not _LETTERS.search(answer)
    return not chinese or len(_CHINESE.findall(answer)) < len(_LETTERS.findall(answer)) / 4


def _missing(answer: str, observations: Sequence[str], facts: Iterable[str] | None) -> list[Finding]:
    if facts is not None:
        return [
            Finding(Flaw.MISSING, fact)
            for fact in facts
            if not (states(answer, fact) or (compact(fact) and claims.same_word(answer, fact)))
        ]
    found = []
    for observation in observations:
        seen = extract(observation)
        pieces = [*map(str, seen.numbers), *seen.urls, *seen.codes]
        if 0 < len(pieces) <= _FEW and not any(states(answer, piece) for piece in pieces):
            found.append(Finding(Flaw.MISSING, observation[:40]))
    return found
