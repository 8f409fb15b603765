"""The Hermes (Nous) format, which Qwen models speak by nature: calls are JSON between `<tool_call>` tags."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from toolweave.dialects.agentfabric import AgentFabric
from toolweave.dialects.base import CallsPerReply, Dialect, Prompt
from toolweave.dialects.tool_tags import call_text, parse_tagged_reply
from toolweave.types import Lang, Message, Reply, ToolCall

_TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{lines}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""


class Hermes(Dialect):
    """Tools in the system message, results in a user message, as Qwen's own chat template writes them."""

    name = "hermes"
    calls_per_reply = CallsPerReply.MANY

    def __init__(self) -> None:
        self._frame = AgentFabric("v06")

    def start(self, prompt: Prompt) -> list[Message]:
        """Return system message (role, knowledge, tools), history and the user turn."""
        system, *rest = self._frame.start(replace(prompt, tools=()))
        if prompt.tools:
            lines = "\n".join(json.dumps(tool.openai(), ensure_ascii=False) for tool in prompt.tools)
            system["content"] = f"{system['content'].rstrip()}\n\n{_TOOLS.replace('{lines}', lines)}"
        return [system, *rest]

    def advance(self, messages: Sequence[Message], reply: str, *observations: str) -> list[Message]:
        """Return the next request: the reply, and one user message with its results."""
        said = Message(role="assistant", content=reply)
        return [*messages, said, Message(role="user", content=self.observation_text(*observations).strip())]

    def observation_text(self, *observations: str) -> str:
        """Return the results in their tags; what an observation says cannot close them."""
        inert = (text.replace("</tool_response>", "<\\/tool_response>") for text in observations)
        return "\n" + "".join(f"<tool_response>\n{text}\n</tool_response>\n" for text in inert)

    def call_completion(self, call: ToolCall, lang: Lang) -> str:
        """Return the call between its tags."""
        return self.calls_completion((call,), lang)

    def calls_completion(self, calls: Sequence[ToolCall], lang: Lang) -> str:
        """Return the calls, each between tags of its own."""
        return "\n".join(map(call_text, calls))

    def parse(self, reply: str) -> Reply:
        """Find the calls of a reply; see `parse_tagged_reply`."""
        return parse_tagged_reply(reply)
