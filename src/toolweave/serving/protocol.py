"""The OpenAI wire format of requests."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import Annotated, Any, Literal, cast

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from toolweave.serving.sampling import RequestError, SamplingParams
from toolweave.types import Json, Message, ToolCall, ToolSpec

DEFAULT_MAX_TOKENS = 512
_MAX_CHOICES = 16
_MAX_TOOLS = 128


class _Wire(BaseModel):
    """Types are taken as they come ("1" is no number); fields unknown here are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore")


class TextPart(_Wire):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class FunctionCall(_Wire):
    """A call that an earlier reply made; `arguments` is JSON text."""

    name: str
    arguments: str = ""


class CallPart(_Wire):
    """A call of an earlier reply, by its id."""

    id: str = ""
    function: FunctionCall

    def to_call(self) -> ToolCall:
        """Return the call. Raises RequestError when its arguments are no JSON object."""
        where = f"messages: the arguments of the call of {self.function.name}"
        try:
            value = json.loads(self.function.arguments or "{}")
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{where} are not JSON: {error}") from None
        if not isinstance(value, dict):
            raise RequestError(f"{where} are not a JSON object")
        return ToolCall(self.function.name, value)

    def to_json(self) -> Json:
        """Return the call as OpenAI writes it."""
        return {"id": self.id, "type": "function", "function": self.function.model_dump()}


class ChatMessage(_Wire):
    """A chat message; a reply that only made calls has no content."""

    role: str
    content: str | list[TextPart] | None = None
    tool_calls: list[CallPart] | None = None
    # Qwen-Agent says `id`.
    tool_call_id: Annotated[str | None, Field(validation_alias=AliasChoices("tool_call_id", "id"))] = None

    @property
    def text(self) -> str:
        """The content as one text."""
        parts = self.content or ""
        return parts if isinstance(parts, str) else "".join(part.text for part in parts)

    def to_message(self) -> Message:
        """Return the message with its content as one text, and its calls as OpenAI writes them."""
        message = Message(role=self.role, content=self.text)
        if self.tool_calls:
            message["tool_calls"] = [part.to_json() for part in self.tool_calls]
        if self.role == "tool" and self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


class Function(_Wire):
    """A function that may be called."""

    name: Annotated[str, Field(pattern=r"^[^\s\"{},\[\]]{1,128}$")]
    description: str | None = None
    parameters: Json | None = None


class Tool(_Wire):
    """A tool; other types than functions are not known here."""

    type: Literal["function"] = "function"
    function: Function

    def to_spec(self) -> ToolSpec:
        """Return the tool as dialects take it."""
        return ToolSpec.from_openai(self.function.model_dump(exclude_none=True))


class _FunctionName(_Wire):
    name: str


class NamedTool(_Wire):
    """`tool_choice` of one function."""

    type: Literal["function"]
    function: _FunctionName


class JsonSchema(_Wire):
    """The schema of `response_format`."""

    name: str = ""
    schema_: Json = Field(alias="schema", default_factory=dict)


class ResponseFormat(_Wire):
    """What a reply is to be: text, a JSON object, or JSON by a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @property
    def wanted(self) -> Json | None:
        """The schema of the reply; None for text."""
        if self.type == "text":
            return None
        if self.type == "json_object":
            return {"type": "object"}
        if self.json_schema is None:
            raise RequestError("response_format: json_schema is missing")
        return self.json_schema.schema_


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
    n: Annotated[int | None, Field(ge=1, le=_MAX_CHOICES)] = None
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    top_k: Annotated[int | None, Field(ge=-1)] = None
    ignore_eos: bool = False

    def sampling(self, defaults: SamplingDefaults, stop: tuple[str, ...] = ()) -> SamplingParams:
        """Return what the engine needs, with further stop words. Raises RequestError for values out of range."""
        own = [self.stop] if isinstance(self.stop, str) else self.stop or []
        limits = (self.max_completion_tokens, self.max_tokens)
        return SamplingParams(
            temperature=defaults.temperature if self.temperature is None else self.temperature,
            top_p=defaults.top_p if self.top_p is None else self.top_p,
            top_k=defaults.top_k if self.top_k is None else max(0, self.top_k),
            seed=self.seed,
            max_tokens=next((limit for limit in limits if limit is not None), DEFAULT_MAX_TOKENS),
            stop=tuple(dict.fromkeys((*own, *stop))),
            logprobs=self.top,
            ignore_eos=self.ignore_eos,
        )

    @property
    @abstractmethod
    def top(self) -> int | None:
        """How many likeliest tokens to report with each token; None reports no log-probabilities."""

    @property
    def choices(self) -> int:
        """How many replies are wanted."""
        return self.n or 1

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with the token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(_GenerationRequest):
    """Body of POST /v1/chat/completions.

    `guided_calls` is ours: calls can only name the tools offered, with arguments that their schemas allow. It is
    true, false, or, for an app that writes its tools into the messages by itself, these tools.
    """

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    tools: Annotated[list[Tool] | None, Field(max_length=_MAX_TOOLS)] = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    response_format: ResponseFormat | None = None
    guided_calls: bool | list[Tool] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None

    @property
    def top(self) -> int | None:
        """How many likeliest tokens to report with each token; None reports no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_GenerationRequest):
    """Body of POST /v1/completions: `prompt` is one text, tokenised as it is, or one list of token ids."""

    prompt: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=1)]
        | Annotated[list[int], Field(min_length=1)]
        | Annotated[list[list[int]], Field(min_length=1, max_length=1)]
    )
    logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    echo: Literal[False] | None = None

    @property
    def top(self) -> int | None:
        """How many likeliest tokens to report with each token; None reports no log-probabilities."""
        return self.logprobs

    @property
    def text_or_ids(self) -> str | list[int]:
        """The prompt."""
        if isinstance(self.prompt, str):
            return self.prompt
        first = self.prompt[0]
        return cast(list[int], self.prompt) if isinstance(first, int) else first


def named_tool(choice: Any) -> str | None:
    """Return the name of the one tool that `tool_choice` asks for."""
    return choice.function.name if isinstance(choice, NamedTool) else None
