"""Flagging visits: every rule on every reply, and a judge model on request."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import NamedTuple

from toolweave.models.interface import Model
from toolweave.traces.cases import Case, cases
from toolweave.traces.rules import RULES, Reason
from toolweave.traces.store import EVERYTHING, TraceStore
from toolweave.traces.trace import Filter, Flag, Outcome, Visit
from toolweave.types import Message

JUDGE = "judge"
_OBJECT = re.compile(r"\{.*\}", re.DOTALL)
_JUDGE_PROMPT = """You check replies of an assistant that may call tools. A reply is right if it calls a tool exactly \
when one is needed, with the arguments that the user gave, and if an answer says what the tools returned and nothing \
else that would need one. Answer with JSON only: {"right": true or false, "why": "one sentence"}."""


class Flagged(NamedTuple):
    """How many replies were looked at, how many flags they got, and how many the judge gave no verdict on."""

    replies: int
    flags: int
    unjudged: int = 0


def flag_visit(visit: Visit) -> dict[str, list[Flag]]:
    """Return the flags of a visit's traces, by id."""
    found: dict[str, list[Flag]] = {}
    for case in cases(visit):
        found[case.trace.id] = [Flag(name, why.en) for name, why in reasons(case).items()]
    return found


def reasons(case: Case) -> dict[str, Reason]:
    """Return the rules that a reply falls under, each with its reason; a reply that never came whole has none."""
    if case.trace.exchange.outcome is not Outcome.ANSWERED:
        return {}
    return {name: why for name, rule in RULES.items() if (why := rule(case)) is not None}


def flag(store: TraceStore) -> Flagged:
    """Flag every visit that has something new."""
    replies = flags = 0
    for visit in store.due():
        found = flag_visit(store.visit(visit))
        store.set_flags(found, RULES)
        replies += len(found)
        flags += sum(map(len, found.values()))
    return Flagged(replies, flags)


def judge(
    store: TraceStore, model: Model, wanted: Filter = EVERYTHING, done: Callable[[int], None] = lambda count: None
) -> Flagged:
    """Let a model judge every whole reply of a filter; its objections become flags of the rule `judge`.

    `done` hears how many replies were judged so far. Raises ServerError when the judge cannot be asked.
    """
    replies = flags = unjudged = 0
    ids = {trace.id for trace in store.traces(wanted) if trace.exchange.outcome is Outcome.ANSWERED}
    for visit in dict.fromkeys(trace.visit for trace in store.traces(wanted)):
        for case in cases(store.visit(visit)):
            if case.trace.id not in ids:
                continue
            objection = _objection("".join(model.complete(_question(case), ())))
            replies += 1
            if objection is None:
                unjudged += 1
            else:
                found = [Flag(JUDGE, objection)] if objection else []
                flags += len(found)
                store.set_flags({case.trace.id: found}, [JUDGE])
            done(replies)
    return Flagged(replies, flags, unjudged)


def _question(case: Case) -> list[Message]:
    shown = {
        "tools": [tool.openai()["function"] for tool in case.trace.tools],
        "conversation": [dict(message) for message in case.trace.messages],
        "reply": case.trace.reply.text or list(case.trace.reply.tool_calls),
    }
    content = json.dumps(shown, ensure_ascii=False, indent=1)
    return [Message(role="system", content=_JUDGE_PROMPT), Message(role="user", content=content)]


def _objection(answer: str) -> str | None:
    """Return why the judge objects, empty if it does not, None if it cannot be told."""
    match = _OBJECT.search(answer)
    try:
        verdict = json.loads(match[0]) if match else {}
    except (ValueError, RecursionError):
        return None
    if not isinstance(verdict, dict) or not isinstance(verdict.get("right"), bool):
        return None
    return "" if verdict["right"] else str(verdict.get("why") or "no reason given")
