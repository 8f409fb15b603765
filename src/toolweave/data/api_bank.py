"""Reader of API-Bank: a folder of dialogues, one JSON object a turn, and no tool list.

What the APIs take is gathered from the whole folder: from the descriptions that its ToolSearcher
returned, and from the calls themselves.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from toolweave.data.chat import Said, Speaker, build_episode, observation_text
from toolweave.data.problems import RowError
from toolweave.data.schemas import json_type, standard_type
from toolweave.types import Episode, Json, ToolCall, ToolSpec

_DECODER = json.JSONDecoder()
_SEARCHER = "ToolSearcher"


def is_turn(row: Mapping[str, Any]) -> bool:
    """Tell whether a row is one turn of an API-Bank dialogue."""
    said = isinstance(row.get("text"), str) or "api_name" in row
    return row.get("role") in ("User", "AI", "API") and said


def dialogue_rows(files: Iterable[Path]) -> Iterator[tuple[Path, Json]]:
    """Yield each file's dialogue as one row `{id, dialogue, tools}`; an unreadable one has `error` instead."""
    rows: list[tuple[Path, Json]] = []
    for path in files:
        try:
            rows.append((path, {"id": path.stem, "dialogue": list(_turns(path.read_text("utf-8")))}))
        except (ValueError, OSError) as error:
            rows.append((path, {"id": path.stem, "error": str(error)}))
    apis = _Apis()
    for _, row in rows:
        for turn in row.get("dialogue", ()):
            apis.learn(turn)
    for path, row in rows:
        names = dict.fromkeys(str(turn.get("api_name")) for turn in row.get("dialogue", ()) if turn["role"] == "API")
        yield path, {**row, "tools": [apis.tool(name) for name in sorted(names)]}


def read_dialogue(row: Mapping[str, Any]) -> Episode:
    """Return the episode of a dialogue row. Raises RowError."""
    if "error" in row:
        raise RowError(f"not JSON ({row['error']})", "each line must hold one turn of the dialogue")
    said = []
    for number, turn in enumerate(row["dialogue"], start=1):
        if turn["role"] == "API":
            result = turn.get("result")
            call = ToolCall(str(turn.get("api_name")), dict(turn.get("param_dict") or {}))
            said.append(Said(Speaker.CALL, call=call, number=number))
            said.append(Said(Speaker.OBSERVATION, _observation(result), number=number))
        else:
            speaker = Speaker.USER if turn["role"] == "User" else Speaker.ASSISTANT
            said.append(Said(speaker, str(turn.get("text") or ""), number=number))
    return build_episode(said, row["tools"], "", {"id": row["id"]})


def _turns(text: str) -> Iterator[Json]:
    """Yield the objects of a file; some of the published lines hold two."""
    at, text = 0, text.rstrip()
    while at < len(text):
        turn, at = _DECODER.raw_decode(text, at)
        if not isinstance(turn, dict) or not is_turn(turn):
            raise ValueError("not a turn with role User, AI or API")
        yield turn
        while at < len(text) and text[at].isspace():
            at += 1


def _observation(result: object) -> str:
    if not isinstance(result, Mapping):
        return observation_text(result)
    return observation_text(result["exception"] if result.get("exception") else result.get("output"))


class _Apis:
    """What is known of every API: its description, its parameters, and which of them every call gave."""

    def __init__(self) -> None:
        self._described: dict[str, Json] = {}
        self._seen: dict[str, dict[str, set[str]]] = {}
        self._always: dict[str, set[str]] = {}

    def learn(self, turn: Json) -> None:
        """Take in one turn of any dialogue."""
        if turn["role"] != "API":
            return
        name, given = str(turn.get("api_name")), turn.get("param_dict") or {}
        seen = self._seen.setdefault(name, {})
        for parameter, value in given.items():
            seen.setdefault(parameter, set()).add(json_type(value))
        self._always[name] = self._always.get(name, set(given)) & set(given)
        result = turn.get("result")
        output = result.get("output") if name == _SEARCHER and isinstance(result, Mapping) else None
        for api in output if isinstance(output, list) else [output]:
            if isinstance(api, Mapping) and isinstance(api.get("name"), str):
                self._described.setdefault(api["name"], dict(api))

    def tool(self, name: str) -> ToolSpec:
        """Return the tool with every parameter that is described or was ever given."""
        described = self._described.get(name, {})
        properties: Json = {}
        for parameter, says in (described.get("input_parameters") or {}).items():
            kind = standard_type(says.get("type")) if isinstance(says, Mapping) else ""
            text = str(says.get("description") or "") if isinstance(says, Mapping) else ""
            properties[parameter] = {**({"type": kind} if kind else {}), "description": text}
        for parameter, kinds in self._seen.get(name, {}).items():
            schema = properties.setdefault(parameter, {"description": ""})
            if schema.get("type") not in kinds or len(kinds) > 1:
                schema["type"] = sorted(kinds)[0] if len(kinds) == 1 else sorted(kinds)
        required = sorted(self._always.get(name, set()))
        return ToolSpec(name, str(described.get("description") or ""), {
            "type": "object", "properties": properties, "required": required,
        })  # fmt: skip
