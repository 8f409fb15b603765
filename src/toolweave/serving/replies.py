"""The OpenAI wire format of replies, whole and streamed."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from toolweave.serving.calls import ReplyDelta
from toolweave.serving.generation import FinishReason, Piece, TokenLogprob, Usage
from toolweave.types import Json


class Reply:
    """Builds the bodies of one request's replies, for either endpoint."""

    def __init__(self, model: str, tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> None:
        self._chat = chat
        self._tokenizer = tokenizer
        self._head: Json = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, choices: Sequence[Json], usage: Usage) -> Json:
        """Return the body of a reply that is not streamed."""
        return {
            **self._head,
            "object": "chat.completion" if self._chat else "text_completion",
            "choices": list(choices),
            "usage": usage_json(usage),
        }

    def choice(self, index: int, delta: ReplyDelta, piece: Piece, finish_reason: str, *, logprobs: bool) -> Json:
        """Return one whole choice; `piece` holds its tokens."""
        if self._chat:
            message: Json = {"role": "assistant", "content": delta.content}
            if delta.calls:
                message["tool_calls"] = _joined(delta)
                message["content"] = delta.content or None
            content: Json = {"message": message}
        else:
            content = {"text": delta.content}
        shown = self._logprobs(piece.logprobs) if logprobs else None
        return {"index": index, **content, "logprobs": shown, "finish_reason": finish_reason}

    def chunk(self, index: int, delta: ReplyDelta, logprobs: Sequence[TokenLogprob] = ()) -> Json:
        """Return one chunk of a stream."""
        if self._chat:
            content: Json = {"delta": {}}
            if delta.content:
                content["delta"]["content"] = delta.content
            if delta.calls:
                content["delta"]["tool_calls"] = [call.to_json() for call in delta.calls]
        else:
            content = {"text": delta.content}
        return self._chunk(index, content, self._logprobs(logprobs) if logprobs else None, None)

    def first(self, index: int) -> Json | None:
        """Return the chunk that opens a choice of a chat: it names the role."""
        return self._chunk(index, {"delta": {"role": "assistant", "content": ""}}, None, None) if self._chat else None

    def last(self, index: int, finish_reason: str) -> Json:
        """Return the chunk that ends a choice."""
        return self._chunk(index, {"delta": {}} if self._chat else {"text": ""}, None, finish_reason)

    def usage(self, usage: Usage) -> Json:
        """Return the last chunk of a stream, if usage was asked for."""
        return {**self._head, "object": self._chunk_object, "choices": [], "usage": usage_json(usage)}

    def _chunk(self, index: int, content: Json, logprobs: Json | None, finish_reason: str | None) -> Json:
        choice = {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason}
        return {**self._head, "object": self._chunk_object, "choices": [choice]}

    @property
    def _chunk_object(self) -> str:
        return "chat.completion.chunk" if self._chat else "text_completion"

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> Json:
        if self._chat:
            content = [
                {**self._token(token.token, token.logprob), "top_logprobs": [self._token(*top) for top in token.top]}
                for token in tokens
            ]
            return {"content": content}
        return {
            "tokens": [self._text(token.token) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{self._text(top): logprob for top, logprob in token.top} for token in tokens],
            "text_offset": [],
        }

    def _token(self, token: int, logprob: float) -> Json:
        text = self._text(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}

    def _text(self, token: int) -> str:
        return str(self._tokenizer.decode([token]))


def finish_reason(reason: FinishReason | None, *, called: bool) -> str:
    """Return why a reply ended, in OpenAI's words."""
    return "tool_calls" if called and reason is FinishReason.STOP else str(reason)


def _joined(delta: ReplyDelta) -> list[Json]:
    """Return whole calls out of their parts."""
    calls: list[Json] = []
    for part in delta.calls:
        if part.name is not None:
            calls.append(part.to_json())
            del calls[-1]["index"]
        else:
            calls[part.index]["function"]["arguments"] += part.arguments
    return calls


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
