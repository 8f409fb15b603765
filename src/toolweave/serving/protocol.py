"""The OpenAI wire format: what requests may hold and what replies look like."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from toolweave.serving.generation import SamplingParams, Usage
from toolweave.types import Json, Message

DEFAULT_MAX_TOKENS = 512


class _Wire(BaseModel):
    """Types are taken as they come ("1" is no number); fields unknown here are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


class TextPart(_Wire):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class ChatMessage(_Wire):
    """A chat message; a reply that only made calls has no content."""

    role: str
    content: str | list[TextPart] | None = None

    def to_message(self) -> Message:
        """Return the message with its content as one text."""
        parts = self.content or ""
        text = parts if isinstance(parts, str) else "".join(part.text for part in parts)
        return Message(role=self.role, content=text)


class StreamOptions(_Wire):
    """Options of a streamed reply."""

    include_usage: bool = False


class SamplingDefaults(_Wire):
    """What holds for a request that does not say: the model's own generation_config."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0


class _GenerationRequest(_Wire):
    """What both kinds of request have in common."""

    model: str | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1)] = None

    def sampling(self, defaults: SamplingDefaults) -> SamplingParams:
        """Return what the engine needs. Raises RequestError for values out of range."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        limits = (self.max_completion_tokens, self.max_tokens)
        return SamplingParams(
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            top_k=defaults.top_k if self.top_k is None else max(0, self.top_k),
            seed=self.seed,
            max_tokens=next((limit for limit in limits if limit is not None), DEFAULT_MAX_TOKENS),
            stop=tuple(stop),
        )

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(_GenerationRequest):
    """Body of POST /v1/chat/completions."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]


class CompletionRequest(_GenerationRequest):
    """Body of POST /v1/completions: `prompt` is one text, tokenised as it is."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=1)]

    @property
    def text(self) -> str:
        """The prompt."""
        return self.prompt if isinstance(self.prompt, str) else self.prompt[0]


class Reply:
    """Builds the bodies of one reply, whole or in chunks, for either endpoint."""

    def __init__(self, model: str, *, chat: bool) -> None:
        self._chat = chat
        self._head: Json = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, text: str, finish_reason: str | None, usage: Usage) -> Json:
        """Return the body of a reply that is not streamed."""
        content: Json = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "object": self._object(chunk=False), "choices": [choice], "usage": usage_json(usage)}

    def chunk(self, text: str | None, *, first: bool = False, finish_reason: str | None = None) -> Json:
        """Return one chunk of a stream; the first one of a chat names the role."""
        if self._chat:
            role = {"role": "assistant"} if first else {}
            content: Json = {"delta": role if text is None else {**role, "content": text}}
        else:
            content = {"text": text or ""}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "object": self._object(chunk=True), "choices": [choice]}

    def usage(self, usage: Usage) -> Json:
        """Return the last chunk of a stream, if usage was asked for."""
        return {**self._head, "object": self._object(chunk=True), "choices": [], "usage": usage_json(usage)}

    def _object(self, *, chunk: bool) -> str:
        if not self._chat:
            return "text_completion"
        return "chat.completion.chunk" if chunk else "chat.completion"


def usage_json(usage: Usage) -> Json:
    """Return token counts as OpenAI writes them."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def error_json(message: str, *, kind: str, param: str | None = None, code: str | None = None) -> Json:
    """Return an error body as OpenAI writes it."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
