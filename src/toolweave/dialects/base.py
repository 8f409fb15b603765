"""What every dialect does: conversation -> requests, reply -> calls and text.

The runtime, the converter, the synthesiser and the evaluator all go through these methods,
so a training row is, byte for byte, a request that the app sends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from toolweave.types import (
    Episode,
    InvalidToolCall,
    Lang,
    Message,
    Reply,
    Role,
    Sample,
    Step,
    ToolCall,
    ToolSpec,
    Turn,
)


@dataclass(frozen=True, slots=True)
class Prompt:
    """Everything that shapes the first request of a user turn."""

    query: str
    tools: tuple[ToolSpec, ...] = ()
    instruction: str | Role = ""
    lang: Lang = Lang.ZH
    knowledge: str = ""
    history: tuple[Message, ...] = ()
    files: tuple[str, ...] = ()
    knowledge_limit: int | None = None
    """Characters of `knowledge` that are shown; None for the environment's KNOWLEDGE_LIMIT."""


class CallsPerReply(StrEnum):
    """How many of the calls in one reply run."""

    ONE = "one"
    """The first: what is written behind it was written without having seen its observation."""
    MANY = "many"


class ToolsIn(StrEnum):
    """Where the model is told of the tools."""

    PROMPT = "prompt"
    REQUEST = "request"
    """In the body's `tools`, for the server's chat template to write."""


class Dialect(ABC):
    """A prompt format: how an app talks to its model about tools."""

    name: str
    stop: tuple[str, ...] = ()
    calls_per_reply: CallsPerReply = CallsPerReply.ONE
    tools_in: ToolsIn = ToolsIn.PROMPT

    @abstractmethod
    def start(self, prompt: Prompt) -> list[Message]:
        """Return the messages of the first request of a turn."""

    @abstractmethod
    def advance(self, messages: Sequence[Message], reply: str, *observations: str) -> list[Message]:
        """Return the messages of the next request, after `reply` made calls that returned `observations`, in order."""

    @abstractmethod
    def observation_text(self, *observations: str) -> str:
        """Return what the user sees of the observations, between two replies."""

    @abstractmethod
    def call_completion(self, call: ToolCall, lang: Lang) -> str:
        """Return the reply that makes this call, as the model should write it."""

    def calls_completion(self, calls: Sequence[ToolCall], lang: Lang) -> str:
        """Return the reply that makes these calls; only where MANY run can it be more than one."""
        (call,) = calls
        return self.call_completion(call, lang)

    def answer_completion(self, answer: str) -> str:
        """Return the reply that answers, as the model should write it."""
        return answer

    @abstractmethod
    def parse(self, reply: str) -> Reply:
        """Take a reply apart. Never raises: a malformed call is an `InvalidToolCall`."""

    def visible(self, reply: str) -> str:
        """Return the part of a reply before the first stop word, as a stop-honouring server sends it."""
        cuts = [at for word in self.stop if (at := reply.find(word)) >= 0]
        return reply[: min(cuts)] if cuts else reply

    def completed(self, reply: str) -> str:
        """Return a reply as the model should have written it: a call with the stop word that the server cut off."""
        said = self.visible(reply)
        return f"{said.rstrip()}\n{self.stop[0]}" if self.stop and self.parse(reply).calls else said

    def error_observation(self, call: ToolCall | InvalidToolCall, details: str) -> str:
        """Return the observation of a failed call, in upstream's frame."""
        arguments = call.arguments_json() if isinstance(call, ToolCall) else call.raw
        return f"Tool api {call.name} failed to call. Args: {arguments}.Details: {details[:200]}"

    def render(self, episode: Episode) -> list[Sample]:
        """Return the sample of every request that the episode took, in order."""
        samples: list[Sample] = []
        history: list[Message] = []
        for number, turn in enumerate(episode.turns):
            prompt = Prompt(
                query=turn.query,
                tools=episode.tools,
                instruction=episode.instruction,
                lang=episode.lang,
                knowledge=episode.knowledge,
                history=tuple(history),
                files=turn.files,
            )
            messages = self.start(prompt)
            for steps in self._replies(turn):
                completion = self.calls_completion([step.call for step in steps], episode.lang)
                samples.append(self._sample(episode, number, messages, completion))
                messages = self.advance(messages, self.visible(completion), *(step.observation for step in steps))
            samples.append(self._sample(episode, number, messages, self.answer_completion(turn.answer)))
            history += [Message(role="user", content=turn.query), Message(role="assistant", content=turn.answer)]
        return samples

    def _replies(self, turn: Turn) -> list[list[Step]]:
        """Return the steps of a turn by the reply that made them."""
        replies: list[list[Step]] = []
        for step in turn.steps:
            if replies and step.together and self.calls_per_reply is CallsPerReply.MANY:
                replies[-1].append(step)
            else:
                replies.append([step])
        return replies

    def _sample(self, episode: Episode, turn: int, messages: Sequence[Message], completion: str) -> Sample:
        meta = {**episode.meta, "dialect": self.name, "turn": turn}
        return Sample(tuple(messages), completion, self.stop, episode.tools, meta)
