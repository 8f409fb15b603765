"""What an agent remembers of a conversation: history in AgentFabric's shape, and how much of it fits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolweave.errors import DataError
from toolweave.types import Message, read_message


@dataclass(frozen=True, slots=True)
class Window:
    """How much a request may hold: `size` in the units of `count`, which counts a text (characters, if not told)."""

    size: int | None = None
    count: Callable[[str], int] = len

    def fit(self, messages: Sequence[Message], history: int) -> list[Message]:
        """Leave out the oldest turns of the history until the rest fits.

        `history` is how many messages between the first (the system's) and the current turn are history. A turn
        goes whole, with its calls and results; the system message and the current turn always stay.
        """
        if self.size is None:
            return list(messages)
        head, past, present = messages[:1], list(messages[1 : 1 + history]), messages[1 + history :]
        over = sum(map(self._size, messages)) - self.size
        while past and over > 0:
            end = next((at for at, message in enumerate(past) if at and message["role"] == "user"), len(past))
            over -= sum(map(self._size, past[:end]))
            del past[:end]
        return [*head, *past, *present]

    def _size(self, message: Message) -> int:
        calls = message.get("tool_calls")
        return self.count(message["content"]) + (self.count(json.dumps(calls, ensure_ascii=False)) if calls else 0)


def read_history(messages: Iterable[Mapping[str, Any]]) -> tuple[Message, ...]:
    """Return messages as a prompt takes them; the system message is made anew for every turn.

    Raises DataError for what is no message.
    """
    try:
        return tuple(read_message(message) for message in messages if message["role"] != "system")
    except (KeyError, TypeError) as error:
        hint = 'the history is a list of {"role": "user" or "assistant", "content": "…"}'
        raise DataError(f"the history has something that is no message: {error}", hint) from None


def load_history(path: str | Path) -> tuple[Message, ...]:
    """Read a history file of AgentFabric (`{session}_user.json`); there is none before the first turn.

    Raises DataError when it is no JSON list of messages.
    """
    path = Path(path)
    if not path.exists():
        return ()
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}", "mend it, or delete it to forget the conversation") from None
    if not isinstance(content, list):
        raise DataError(f"{path} is not a list of messages", "mend it, or delete it to forget the conversation")
    return read_history(content)


def save_history(path: str | Path, messages: Sequence[Message]) -> None:
    """Write a history file, whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f"{path.suffix}.new")
    draft.write_text(json.dumps(list(messages), ensure_ascii=False, indent=2), "utf-8")
    draft.replace(path)
