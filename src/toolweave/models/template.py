"""From messages to tokens: the only place where it happens, by the model's own chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from toolweave.errors import ModelError
from toolweave.types import Message


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

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens of a request, up to where the assistant begins to speak."""
        return self._encode(self._render(messages, generate=True))

    def completion_ids(self, completion: str) -> list[int]:
        """Return the tokens of a reply and the end token. A reply is text: it holds no control tokens."""
        ids = self.tokenizer(completion, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [*cast(list[int], ids), self.end_id]

    def full_text(self, messages: Sequence[Message]) -> str:
        """Return the template's text of a whole conversation."""
        return self._render(messages, generate=False)

    def _render(self, messages: Sequence[Message], *, generate: bool) -> str:
        spoken = [{"role": message["role"], "content": self._defuse(message["content"])} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(spoken, tokenize=False, add_generation_prompt=generate)
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise ModelError(f"the chat template refuses messages of roles {roles}: {error}") from error
        return cast(str, text)

    def _defuse(self, content: str) -> str:
        """Break control tokens that a user or a tool wrote: only the template opens and ends turns."""
        for token in self.tokenizer.all_special_tokens:
            content = content.replace(token, f"{token[0]}\u200b{token[1:]}")
        return content

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
