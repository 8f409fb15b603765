"""Readers of ToolBench: answer trees as its search wrote them, and the conversations made from them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from toolweave.data.chat import Said, Speaker, build_episode, observation_text
from toolweave.data.problems import Failure, RowError
from toolweave.data.schemas import read_tools
from toolweave.dialects.parsing import read_call
from toolweave.types import Episode, InvalidToolCall, ToolCall, ToolSpec

FINISH = "Finish"
_APIS = re.compile(r"you have access to the following APIs:\s*(?=\[)", re.IGNORECASE)
_ACTION = re.compile(r"Action:[ \t]*(?P<name>[^\n]*)\n\s*Action Input:[ \t]*(?P<input>.*)\Z", re.DOTALL)
_GAVE_UP = "the search found no answer"


def is_toolbench(row: Mapping[str, Any]) -> bool:
    """Tell whether a row is an answer tree, or a conversation with ToolBench's system message."""
    if "tree" in row and "answer_generation" in row:
        return True
    said = row.get("conversations")
    first = said[0] if isinstance(said, list) and said and isinstance(said[0], Mapping) else {}
    text = first.get("value")
    return isinstance(text, str) and text.startswith("You are AutoGPT") and _APIS.search(text) is not None


def read_toolbench_row(row: Mapping[str, Any]) -> Episode:
    """Return the episode of a tree's path to its final answer, or of a conversation. Raises RowError."""
    return _tree_episode(row) if "tree" in row else _conversation_episode(row)


def _tree_episode(row: Mapping[str, Any]) -> Episode:
    answer, tree = row.get("answer_generation"), row["tree"]
    if not isinstance(answer, Mapping) or not isinstance(answer.get("query"), str):
        raise RowError("the tree has no answer_generation with its query", "use ToolBench's answer files as they are")
    root = tree.get("tree", tree) if isinstance(tree, Mapping) else None
    path = next(_answer_paths(root), None) if isinstance(root, Mapping) else None
    if path is None:
        raise RowError(_GAVE_UP, "rows without a final answer teach nothing", failure=Failure.EMPTY)
    said = [Said(Speaker.USER, answer["query"])]
    name = ""
    for node in path:
        text = str(node.get("description") or "")
        if node.get("node_type") == "Action":
            name = text.strip()
        elif node.get("node_type") == "Action Input" and name:  # the root is one too, of no action
            said += _acted(name, text, observation_text(node.get("observation") or ""))
    meta = {"id": row["id"]} if "id" in row else {}
    return build_episode(said, _without_finish(read_tools(answer.get("function"))), "", meta)


def _answer_paths(root: Mapping[str, Any]) -> Iterator[list[Mapping[str, Any]]]:
    """Yield the nodes from the root to each node that finishes with an answer, in the order of the search."""
    stack: list[tuple[Mapping[str, Any], list[Mapping[str, Any]], str]] = [(root, [], "")]
    while stack:
        node, before, action = stack.pop()
        path = [*before, node]
        kind, text = node.get("node_type"), str(node.get("description") or "")
        if kind == "Action":
            action = text.strip()
        if kind == "Action Input" and action == FINISH and _final_answer(text):
            yield path
            continue
        children = [child for child in node.get("children") or [] if isinstance(child, Mapping)]
        stack += [(child, path, action) for child in reversed(children)]


def _conversation_episode(row: Mapping[str, Any]) -> Episode:
    said: list[Said] = []
    tools: tuple[ToolSpec, ...] = ()
    conversations = row.get("conversations") or []
    for number, message in enumerate(conversations, start=1):
        role, text = message.get("from"), str(message.get("value") or "")
        if role == "system":
            tools = _without_finish(read_tools(_api_list(text)))
        elif role == "user":
            said.append(Said(Speaker.USER, text.strip().removesuffix("Begin!").strip(), number=number))
        elif role == "function":
            said.append(Said(Speaker.OBSERVATION, text, number=number))
        elif action := _ACTION.search(text):
            acted = _acted(action["name"].strip(), action["input"], "")
            said += [message for message in acted if message.speaker is not Speaker.OBSERVATION]
        else:
            said.append(Said(Speaker.ASSISTANT, text, number=number))
    if said and said[-1].speaker is not Speaker.ASSISTANT:
        raise RowError(_GAVE_UP, "rows without a final answer teach nothing", failure=Failure.EMPTY)
    return build_episode(said, tools, "", {"id": row["id"]} if "id" in row else {})


def _acted(name: str, text: str, observation: str) -> list[Said]:
    """Return a call and its observation, or the answer if the action finishes."""
    if name == FINISH:
        answer = _final_answer(text)
        return [Said(Speaker.ASSISTANT, answer)] if answer else []
    read = read_call(name, text)
    if isinstance(read, InvalidToolCall):
        raise RowError(f"the call of {name!r} cannot be read: {text[:80]!r}", "", tool=name)
    return [Said(Speaker.CALL, call=ToolCall(name, read.arguments)), Said(Speaker.OBSERVATION, observation)]


def _final_answer(text: str) -> str:
    read = read_call(FINISH, text)
    if isinstance(read, InvalidToolCall) or read.arguments.get("return_type", "give_answer") != "give_answer":
        return ""
    return str(read.arguments.get("final_answer") or "").strip()


def _api_list(system: str) -> Any:
    """Return the list of APIs in the system message, written as Python or JSON."""
    found = _APIS.search(system)
    text = system[found.end() :].strip() if found else "[]"
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise RowError("the API list of the system message cannot be read", "", failure=Failure.SCHEMA)


def _without_finish(tools: tuple[ToolSpec, ...]) -> tuple[ToolSpec, ...]:
    """Leave out the Finish function: a dialect finishes by answering."""
    return tuple(tool for tool in tools if tool.name != FINISH)
