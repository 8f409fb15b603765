"""Facts in texts: what an answer states, and whether what was observed bears it out. Chinese and English."""

from __future__ import annotations

from toolweave.facts.answer import Finding, Flaw, check_answer, states_facts
from toolweave.facts.claims import admits_failure, asks, failed
from toolweave.facts.extract import Facts, extract, unsupported

__all__ = [
    "Facts",
    "Finding",
    "Flaw",
    "admits_failure",
    "asks",
    "check_answer",
    "extract",
    "failed",
    "states_facts",
    "unsupported",
]
