"""Turns as the messages of a chat component: the words, and every call as a step that folds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolweave.studio.conversation import Say, State, Step, Turn
from toolweave.studio.text import say
from toolweave.tools.simulate import LABEL
from toolweave.types import Json, Lang

_FENCE = "````"


@dataclass(frozen=True, slots=True)
class Transcript:
    """What a chat shows: its messages, the turn that each belongs to, and the feedback on each (None: none)."""

    messages: list[Any]
    turns: tuple[int, ...]
    feedback: list[str | None]


def transcript(turns: Sequence[Turn], lang: Lang) -> Transcript:
    """Return the messages of a conversation, in the shape that gradio.Chatbot takes."""
    messages: list[Json] = []
    owners: list[int] = []
    feedback: list[str | None] = []
    for number, turn in enumerate(turns):
        shown = list(_messages(turn, lang))
        messages += shown
        owners += [number] * len(shown)
        said = [message for message in shown if message["role"] == "assistant"]
        thumb = {"thumbs_up": "Like", "thumbs_down": "Dislike"}.get(turn.feedback)
        feedback += [None] * (len(said) - 1) + [thumb] if said else []
    return Transcript(messages, tuple(owners), feedback)


def _messages(turn: Turn, lang: Lang) -> list[Json]:
    shown: list[Json] = [_user(turn)]
    for number, part in enumerate(turn.parts):
        match part:
            case Say(text):
                if text.strip():
                    shown.append({"role": "assistant", "content": text})
            case Step():
                shown.append(_step(part, number, turn, lang))
    if turn.state is State.STARTING:
        shown.append(_pending(say("preview.starting", lang)))
    elif turn.state is State.RUNNING and not turn.parts:
        shown.append(_pending(say("preview.thinking", lang)))
    elif turn.state is State.STOPPED:
        shown.append({"role": "assistant", "content": f"*{say('preview.stopped', lang)}*"})
    if turn.note:
        shown.append({"role": "assistant", "content": f"> ⚠ {turn.note}".replace("\n", "\n> ")})
    return shown


def _user(turn: Turn) -> Json:
    names = "".join(f"\n\n+ {Path(file).name}" for file in turn.files)
    return {"role": "user", "content": turn.query + names}


def _pending(title: str) -> Json:
    return {"role": "assistant", "content": "", "metadata": {"title": title, "status": "pending"}}


def _step(step: Step, number: int, turn: Turn, lang: Lang) -> Json:
    source = say("preview.simulated" if step.simulated else "preview.real", lang)
    metadata: dict[str, Any] = {"title": f"{step.tool}{' ✗' if step.error else ''}", "id": number, "log": source}
    if step.observation is None:
        metadata["status"] = "done" if turn.over else "pending"
    else:
        metadata |= {"status": "done", "duration": round(step.seconds, 2)}
    return {"role": "assistant", "content": _details(step, lang), "metadata": metadata}


def _details(step: Step, lang: Lang) -> str:
    arguments = f"**{say('preview.arguments', lang)}**\n\n{_FENCE}json\n{_pretty(step.arguments)}\n{_FENCE}"
    if step.observation is None:
        return arguments
    title = say("preview.error" if step.error else "preview.result", lang)
    result = step.observation.removeprefix(LABEL)
    # A picture is shown; everything else is text of a stranger, and shown as that.
    shown = result if result.startswith("![") and "\n" not in result else f"{_FENCE}text\n{result}\n{_FENCE}"
    return f"{arguments}\n\n**{title}**\n\n{shown}"


def _pretty(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False, indent=2)
    except (ValueError, RecursionError):
        return arguments
