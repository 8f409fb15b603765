"""The prompt format of ModelScope-Agent's RolePlay, which AgentFabric agents use.

The text is wire format: `tests/fixtures/exchanges` holds requests recorded from the real client,
versions 0.6 and 0.7, and ours are equal to them byte for byte.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from toolweave.dialects.base import Dialect, Prompt
from toolweave.dialects.caching import cached_by_identity
from toolweave.dialects.parsing import parse_action_reply
from toolweave.dialects.reading import Exchange, Reading, find_tools, occurrences, split_trace
from toolweave.types import Lang, Message, Reply, Role, ToolCall, ToolSpec

Variant = Literal["v06", "v07"]


@dataclass(frozen=True, slots=True)
class _Text:
    """The wording of one language."""

    knowledge: str
    tools: str
    tool_line: str
    instruction: str
    call_word: str
    can_use: str
    read_knowledge: str
    acting: str
    files: str


_TEXT = {
    Lang.ZH: _Text(
        knowledge="\n\n# 知识库\n\n{doc}\n\n",
        tools=(
            "\n# 工具\n\n## 你拥有如下工具：\n\n{lines}\n\n"
            "## 当你需要调用工具时，请在你的回复中穿插如下的工具调用命令，可以根据需求调用零次或多次：\n\n"
            "工具调用\nAction: 工具的名称，必须是[{names}]之一\nAction Input: 工具的输入\n"
            "Observation: <result>工具返回的结果</result>\nAnswer: 根据Observation总结本次工具调用返回的结果{url}\n\n"
        ),
        tool_line="{name}: {name} API。{description} 输入参数: {parameters} Format the arguments as a JSON object.",
        instruction=(
            "\n# 指令\n\n{role}\n\n请注意：你具有图像和视频的展示能力，也具有运行代码的能力，不要在回复中说你做不到。\n"
        ),
        call_word="工具调用",
        can_use="。你可以使用工具：[{names}]",
        read_knowledge="。请查看前面的知识库",
        acting="你正在扮演{name}",
        files='[上传文件 "{files}"]',
    ),
    Lang.EN: _Text(
        knowledge="\n\n# Knowledge Base\n\n{doc}\n\n",
        tools=(
            "\n# Tools\n\n## You have the following tools:\n\n{lines}\n\n"
            "## When you need to call a tool, please intersperse the following tool command in your reply. "
            "You can call zero or more times according to your needs:\n\n"
            "Tool Invocation\nAction: The name of the tool, must be one of [{names}]\nAction Input: Tool input\n"
            "Observation: <result>Tool returns result</result>\n"
            "Answer: Summarize the results of this tool call based on Observation.{url}\n\n"
        ),
        tool_line="{name}: {name} API. {description} Parameters: {parameters} Format the arguments as a JSON object.",
        instruction=(
            "\n#Instructions\n\n{role}\n\n"
            "Note: you have the ability to display images and videos, as well as the ability to run code. "
            "Don't say you can't do it.\n"
        ),
        call_word="Tool Invocation",
        can_use=". you can use tools: [{names}]",
        read_knowledge=". Please read the knowledge base at the beginning",
        acting="You are playing as {name}",
        files='[Upload file "{files}"]',
    ),
}

_URL_CLAUSE: dict[tuple[Variant, Lang], str] = {
    ("v06", Lang.ZH): "，如果结果中出现url，请使用如下格式展示出来：![图片](url)",
    ("v07", Lang.ZH): "。如果结果中出现url，请严格遵循Observation中url的格式进行展示。",
    ("v06", Lang.EN): " If the result contains url, please display it in the following format:![Image](URL)",
    ("v07", Lang.EN): "",
}

_CALL_WORDS = tuple(text.call_word for text in _TEXT.values())
_CHINESE = re.compile("[\u4e00-\u9fff]")
_ENCODER = json.JSONEncoder(ensure_ascii=False)

OBSERVATION = "Observation:"
"""What opens an observation; the model stops there."""


def knowledge_limit() -> int:
    """Return how many characters of knowledge go into the prompt (`KNOWLEDGE_LIMIT`, default 4000)."""
    return int(os.environ.get("KNOWLEDGE_LIMIT", "4000"))


def shown_knowledge(prompt: Prompt) -> str:
    """Return as much of the knowledge as the prompt may hold."""
    limit = knowledge_limit() if prompt.knowledge_limit is None else prompt.knowledge_limit
    return prompt.knowledge[:limit]


def contains_chinese(text: str) -> bool:
    """Tell whether the text has a Chinese character; upstream picks a tool line's language by this."""
    return _CHINESE.search(text) is not None


class AgentFabric(Dialect):
    """RolePlay's ReAct-like dialect, in the wording of client 0.6 (`v06`) or 0.7 (`v07`)."""

    stop = (OBSERVATION, f"{OBSERVATION}\n")

    def __init__(self, variant: Variant = "v06") -> None:
        self.variant: Variant = variant
        self.name = f"agentfabric-{variant}"

    def start(self, prompt: Prompt) -> list[Message]:
        """Return system message, history and the user turn."""
        return [
            Message(role="system", content=self.system(prompt)),
            *prompt.history,
            Message(role="user", content=self._user(prompt)),
        ]

    def system(self, prompt: Prompt) -> str:
        """Return the system message: knowledge, tools and instruction, in this order."""
        text = _TEXT[prompt.lang]
        knowledge = text.knowledge.format(doc=shown_knowledge(prompt)) if prompt.knowledge else ""
        tools = self._tools(prompt) if prompt.tools or self._offers_empty_tools else ""
        return knowledge + tools + text.instruction.replace("{role}", role_prompt(prompt.instruction, prompt.lang))

    def advance(self, messages: Sequence[Message], reply: str, *observations: str) -> list[Message]:
        """Return the next request: the whole trace grows inside the last (the user's) message."""
        last = messages[-1]
        trace = self._trace(reply) + self.observation_text(*observations)
        grown = Message(role=last["role"], content=last["content"] + trace)
        return [*messages[:-1], grown]

    def observation_text(self, *observations: str) -> str:
        """Return the frame that shows observations to model and user."""
        shown = "".join(f"\nObservation: <result>{observation}</result>" for observation in observations)
        return f"{shown}\nAnswer:"

    def call_completion(self, call: ToolCall, lang: Lang) -> str:
        """Return the call block up to its stop word; the end token comes after it.

        The stop word is part of what the model learns: a server that honours `stop` cuts there,
        one that does not meets the end token.
        """
        return self.calls_completion((call,), lang)

    def calls_completion(self, calls: Sequence[ToolCall], lang: Lang) -> str:
        """Return a call block of several calls; see `call_completion`."""
        return "".join((f"{_TEXT[lang].call_word}\n", *map(call_lines, calls), self.stop[0]))

    def parse(self, reply: str) -> Reply:
        """Find the calls of a reply; see `parse_action_reply`."""
        return parse_action_reply(self._trace(reply), call_words=_CALL_WORDS)

    def read_prompt(self, messages: Sequence[Message]) -> Reading | None:
        """Read a request back: the inverse of `start`, and of `advance` after it.

        None if this client did not write the system message. A dict instruction comes back with its list
        joined, knowledge as far as it was shown. What the first reply said before its call cannot be told
        from the query, and counts as query.
        """
        if len(messages) < 2 or messages[0]["role"] != "system" or messages[-1]["role"] != "user":
            return None
        content = messages[-1]["content"]
        for prompt in _read_system(self, messages[0]["content"]):
            opening = self._user(prompt)
            if not content.startswith(opening):
                continue
            query, trace = _split_query(content[len(opening) :])
            uploads = re.match(re.escape(_TEXT[prompt.lang].files).replace(r"\{files\}", '([^"]+)'), query)
            files = tuple(uploads[1].split(",")) if uploads else ()
            query = query[uploads.end() :] if uploads else query
            return Reading(replace(prompt, query=query, files=files, history=tuple(messages[1:-1])), trace)
        return None

    def _trace(self, reply: str) -> str:
        """Return the reply as it stays in the request; client 0.6 takes blanks off its end, 0.7 leaves them."""
        visible = self.visible(reply)
        return visible.rstrip() if self.variant == "v06" else visible

    @property
    def _offers_empty_tools(self) -> bool:
        """Client 0.7 writes the tool block even when the agent has no tools."""
        return self.variant == "v07"

    def _tools(self, prompt: Prompt) -> str:
        text = _TEXT[prompt.lang]
        url = _URL_CLAUSE[self.variant, prompt.lang]
        frame = text.tools.replace("{url}", url).replace("{names}", _names(prompt.tools))
        return frame.replace("{lines}", _lines(prompt.tools))

    def _user(self, prompt: Prompt) -> str:
        text = _TEXT[prompt.lang]
        notes = ""
        if not isinstance(prompt.instruction, str):
            notes += text.acting.format(name=prompt.instruction["name"])
        if prompt.tools or self._offers_empty_tools:
            notes += text.can_use.format(names=_names(prompt.tools))
        if prompt.knowledge:
            notes += text.read_knowledge
        files = text.files.format(files=",".join(prompt.files)) if prompt.files else ""
        return (f"({notes})" if notes else "") + files + prompt.query


def call_lines(call: ToolCall) -> str:
    """Return the two lines of a call."""
    # A stop word inside an argument would end the reply there; JSON can spell its colon otherwise.
    arguments = call.arguments_json().replace(OBSERVATION, OBSERVATION[:-1] + "\\u003a")
    return f"Action: {call.name}\nAction Input: {arguments}\n"


def role_prompt(instruction: str | Role, lang: Lang) -> str:
    """Return the role text: a string as it is, a dict in AgentFabric's sentence frame."""
    if isinstance(instruction, str):
        return instruction
    functions = instruction.get("instruction") or ""
    if not isinstance(functions, str):
        functions = "；".join(functions)
    name, description = instruction.get("name", ""), instruction.get("description", "")
    if lang is Lang.ZH:
        return (
            f"你扮演AI-Agent，你的名字是{name}。{description}\n你具有下列具体功能：{functions}\n下面你将开始扮演{name}"
        )
    return (
        f"You are playing as an AI-Agent, Your name is {name}.{description}"
        f"\nYou have the following specific functions:{functions}\nNow you will start playing as{name}"
    )


def _names(tools: Sequence[ToolSpec]) -> str:
    return ",".join(tool.name for tool in tools)


@cached_by_identity
def _lines(tools: Sequence[ToolSpec]) -> str:
    return "\n\n".join(map(_tool_line, tools))


@cached_by_identity
def _tool_line(tool: ToolSpec) -> str:
    lang = Lang.ZH if contains_chinese(tool.description) else Lang.EN
    parameters = _ENCODER.encode(tool.parameters)
    line = _TEXT[lang].tool_line.replace("{name}", tool.name)
    return line.replace("{parameters}", parameters).replace("{description}", tool.description)


# Where the first reply of a trace begins: its call, with or without the call word.
_FIRST_CALL = re.compile(rf"(?:(?:{'|'.join(_CALL_WORDS)})\s*)?Action[ \t]*[:：][^\n]*\n\s*Action[ \t]+Input")


def _split_query(text: str) -> tuple[str, tuple[Exchange, ...]]:
    """Split what follows the notes of the user message into the query and the trace."""
    opening, closing = AgentFabric().observation_text("\0").split("\0")
    rest, trace = split_trace(text, opening, closing)
    first = _FIRST_CALL.search(trace[0].reply) if trace and not rest else None
    if first is None:
        return text, ()
    asked = trace[0].reply
    return asked[: first.start()], (Exchange(asked[first.start() :], trace[0].observation), *trace[1:])


@lru_cache(maxsize=256)
def _read_system(dialect: AgentFabric, system: str) -> tuple[Prompt, ...]:
    """Return every prompt, without a query, that has this system message."""
    readings: list[Prompt] = []
    for lang in Lang:
        for prompt in _system_readings(dialect.variant, lang, system):
            if dialect.system(prompt) == system:
                readings.append(prompt)
    return tuple(readings)


def _system_readings(variant: Variant, lang: Lang, system: str) -> Iterator[Prompt]:
    """Yield what the parts of a system message may have been."""
    text = _TEXT[lang]
    head, tail = text.instruction.split("{role}")
    if not system.endswith(tail):
        return
    body = system.removesuffix(tail)
    block = text.tools.replace("{url}", _URL_CLAUSE[variant, lang])
    for found in find_tools(body, block, [text.tool_line for text in _TEXT.values()]):
        if found.after.startswith(head):
            yield from _with_roles(lang, found.before, found.tools, found.after.removeprefix(head))
    for at in occurrences(body, head):
        yield from _with_roles(lang, body[:at], (), body[at + len(head) :])


def _with_roles(lang: Lang, knowledge: str, tools: tuple[ToolSpec, ...], role: str) -> Iterator[Prompt]:
    head, tail = _TEXT[lang].knowledge.split("{doc}")
    doc = knowledge.removeprefix(head).removesuffix(tail) if knowledge else ""
    structured = _read_role(role, lang)
    for instruction in (structured, role) if structured else (role,):
        yield Prompt("", tools, instruction, lang, doc)


def _read_role(text: str, lang: Lang) -> Role | None:
    """Return the dict whose role prompt is `text`, its list of functions joined; None if there is none."""
    holes = Role(name="\0", description="\1", instruction="\2")
    before, after, between, last, _ = re.split("[\0\1\2]", role_prompt(holes, lang))
    frame = re.compile(
        re.escape(before) + "(.*)" + re.escape(after) + "(.*?)" + re.escape(between) + "(.*)" + re.escape(last) + r"\1",
        re.DOTALL,
    )
    parts = frame.fullmatch(text)
    return Role(name=parts[1], description=parts[2], instruction=parts[3]) if parts else None
