"""ReAct as ms_agent's rows have it: Thought, Action, Action Input, Observation, Final Answer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from toolweave.dialects.agentfabric import OBSERVATION, AgentFabric, call_lines, role_prompt, shown_knowledge
from toolweave.dialects.base import Dialect, Prompt
from toolweave.dialects.parsing import parse_action_reply
from toolweave.types import Json, Lang, Message, Reply, ToolCall, ToolSpec

_FRAME = """Answer the following questions as best you can. You have access to the following APIs:
{lines}

Use the following format:

Thought: you should always think about what to do
Action: the action to take, should be one of the above tools[{names}]
Action Input: the input to the action
Observation: the result of the action
... (this Thought/Action/Action Input/Observation can be repeated zero or more times)
Thought: I now know the final answer
Final Answer: the final answer to the original input question
Begin!"""
_LINE = (
    "{number}. {name}: Call this tool to interact with the {name} API. What is the {name} API useful for? "
    "{description}. Parameters: {parameters}"
)
_DONE = "Thought: I now know the final answer\nFinal Answer: "
_FINAL = re.compile(r"(?:^|\n)[ \t]*Final[ \t]+Answer[ \t]*[:：][ \t]?")
_THOUGHT = re.compile(r"^\s*Thought[ \t]*[:：]\s*")


class ReAct(Dialect):
    """One call a reply; each result comes back as a user message."""

    name = "react"
    stop = (OBSERVATION,)

    def __init__(self) -> None:
        self._frame = AgentFabric("v06")

    def start(self, prompt: Prompt) -> list[Message]:
        """Return system message (role, knowledge, tools), history and the user turn."""
        parts = (role_prompt(prompt.instruction, prompt.lang), shown_knowledge(prompt), _tools(prompt.tools))
        system = Message(role="system", content="\n\n".join(filter(None, parts)))
        plain = Prompt(prompt.query, lang=prompt.lang, files=prompt.files)
        return [system, *prompt.history, self._frame.start(plain)[-1]]

    def advance(self, messages: Sequence[Message], reply: str, *observations: str) -> list[Message]:
        """Return the next request: the reply, and a user message with its observation."""
        said = Message(role="assistant", content=self.visible(reply).rstrip())
        return [*messages, said, Message(role="user", content=self.observation_text(*observations).strip())]

    def observation_text(self, *observations: str) -> str:
        """Return the observation behind its marker."""
        return "".join(f"\n{OBSERVATION} {observation}\n" for observation in observations)

    def call_completion(self, call: ToolCall, lang: Lang) -> str:
        """Return the call up to its stop word."""
        return call_lines(call) + OBSERVATION

    def answer_completion(self, answer: str) -> str:
        """Return the answer behind `Final Answer:`."""
        return _DONE + answer

    def parse(self, reply: str) -> Reply:
        """Find the first call or the final answer, whichever comes first; a thought is no part of the text."""
        visible = self.visible(reply)
        final = _FINAL.search(visible)
        before = parse_action_reply(visible[: final.start()] if final else visible, call_words=())
        if final and not before.calls:
            return Reply(visible[final.end() :].strip())
        return Reply(_THOUGHT.sub("", before.text), before.calls)


def _tools(tools: Sequence[ToolSpec]) -> str:
    if not tools:
        return ""
    lines = "\n\n".join(_tool_line(number, tool) for number, tool in enumerate(tools, start=1))
    return _FRAME.replace("{names}", ", ".join(tool.name for tool in tools)).replace("{lines}", lines)


def _tool_line(number: int, tool: ToolSpec) -> str:
    parameters = json.dumps(_parameters(tool.parameters), ensure_ascii=False)
    line = _LINE.replace("{number}", str(number)).replace("{name}", tool.name)
    return line.replace("{parameters}", parameters).replace("{description}", tool.description)


def _parameters(schema: Json) -> list[Json]:
    """Return the parameters as ms_agent lists them: `required` is a word, the rest of each schema follows."""
    required = schema.get("required", ())
    return [
        {"name": name, "description": "", **part, "required": str(name in required)}
        for name, part in schema.get("properties", {}).items()
    ]
