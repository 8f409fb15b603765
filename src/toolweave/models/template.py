"""From messages to tokens: the only place where it happens, by the model's own chat template."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from toolweave.dialects import ToolsIn, dialect_of
from toolweave.errors import ModelError
from toolweave.types import Json, Message, Sample, ToolSpec

_PROBE = ToolSpec("probe_tool", "", {"type": "object", "properties": {}})


class ChatTemplate:
    """A tokenizer with its chat template, as training and serving both use it.

    `end_id` is the token that ends an assistant turn; `hash` names the template and vocabulary, so
    that an adapter is never used with another. Raises ModelError for a tokenizer without template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template",
                "use the chat or instruct version of the model",
            )
        self.tokenizer = tokenizer
        self.end_id = self._find_end()
        text = f"{tokenizer.chat_template}\n{len(tokenizer)}\n{tokenizer.convert_ids_to_tokens(self.end_id)}"
        self.hash = hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def takes_tools(self) -> bool:
        """Whether the template itself tells the model of tools."""
        probe: list[Message] = [{"role": "user", "content": "hi"}]
        return _PROBE.name in self._render(probe, generate=True, tools=(_PROBE,))

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[ToolSpec] = ()) -> list[int]:
        """Return the tokens of a request, up to where the assistant begins to speak.

        `tools` are for the template to write, where a dialect leaves them to the request. Raises ModelError when the
        template refuses the messages.
        """
        return self._encode(self._render(messages, generate=True, tools=tools))

    def request_ids(self, sample: Sample) -> list[int]:
        """Return the tokens of the request that a sample is a reply to, as the server renders it."""
        if sample.raw_prompt is not None:
            return self.raw_ids(sample.raw_prompt)
        dialect = dialect_of(sample)
        told = dialect is not None and dialect.tools_in is ToolsIn.REQUEST
        return self.prompt_ids(sample.messages, sample.tools if told else ())

    def raw_ids(self, prompt: str) -> list[int]:
        """Return the tokens of a prompt that an app wrote whole, control tokens included, for `/v1/completions`."""
        return cast(list[int], self.tokenizer(prompt)["input_ids"])

    def completion_ids(self, completion: str) -> list[int]:
        """Return the tokens of a reply and the end token. A reply is text: it holds no control tokens."""
        ids = self.tokenizer(completion, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [*cast(list[int], ids), self.end_id]

    def full_text(self, messages: Sequence[Message]) -> str:
        """Return the template's text of a whole conversation."""
        return self._render(messages, generate=False)

    def _render(self, messages: Sequence[Message], *, generate: bool, tools: Sequence[ToolSpec] = ()) -> str:
        spoken = [self._spoken(message) for message in messages]
        offered = [self._defuse(tool.openai()) for tool in tools] or None
        try:
            text = self.tokenizer.apply_chat_template(
                spoken, tools=offered, tokenize=False, add_generation_prompt=generate
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ModelError(f"the chat template refuses messages of roles {roles}: {error}") from error
        return cast(str, text)

    def _spoken(self, message: Message) -> Json:
        """Return a message as templates take it: the arguments of its calls are objects, not JSON text."""
        spoken: Json = {"role": message["role"], "content": self._defuse(message["content"])}
        if calls := message.get("tool_calls"):
            spoken["tool_calls"] = [self._defuse(_with_object(call)) for call in calls]
        if call_id := message.get("tool_call_id"):
            spoken["tool_call_id"] = self._defuse(call_id)
        return spoken

    def _defuse(self, value: Any) -> Any:
        """Break control tokens that a user or a tool wrote: only the template opens and ends turns."""
        if isinstance(value, str):
            for token in self.tokenizer.all_special_tokens:
                value = value.replace(token, f"{token[0]}\u200b{token[1:]}")
            return value
        if isinstance(value, Mapping):
            return {self._defuse(key): self._defuse(inner) for key, inner in value.items()}
        return [self._defuse(inner) for inner in value] if isinstance(value, list) else value

    def _encode(self, text: str) -> list[int]:
        return cast(list[int], self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _find_end(self) -> int:
        """Return the first token that the template puts after an assistant message."""
        probe: list[Message] = [{"role": "user", "content": "hi"}]
        reply = "probe"
        full = self._render([*probe, {"role": "assistant", "content": reply}], generate=False)
        tail = full[full.rindex(reply) + len(reply) :].lstrip()
        ids = self._encode(tail)
        if ids:
            return ids[0]
        if self.tokenizer.eos_token_id is None:
            raise ModelError("neither the chat template nor the tokenizer names an end token")
        return cast(int, self.tokenizer.eos_token_id)


def _with_object(call: Json) -> Json:
    function = call.get("function") or {}
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except (ValueError, TypeError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}
