"""What every dialect does: conversation -> requests, reply -> calls and text.

The runtime, the converter, the synthesiser and the evaluator all go through these methods,
so a training row is, byte for byte, a request that the app sends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from toolweave.types import Episode, InvalidToolCall, Lang, Message, Reply, Role, Sample, Step, ToolCall, ToolSpec


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


class Dialect(ABC):
    """A prompt format: how an app talks to its model about tools."""

    name: str
    stop: tuple[str, ...] = ()

    @abstractmethod
    def start(self, prompt: Prompt) -> list[Message]:
        """Return the messages of the first request of a turn."""

    @abstractmethod
    def advance(self, messages: Sequence[Message], reply: str, observation: str) -> list[Message]:
        """Return the messages of the next request, after `reply` made a call that returned `observation`."""

    @abstractmethod
    def observation_text(self, observation: str) -> str:
        """Return what the user sees of an observation, between two replies."""

    @abstractmethod
    def call_completion(self, call: ToolCall, lang: Lang) -> str:
        """Return the reply that makes this call, as the model should write it."""

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
            for step in turn.steps:
                completion = self.call_completion(step.call, episode.lang)
                samples.append(self._sample(episode, number, messages, completion))
                messages = self._after(messages, completion, step)
            samples.append(self._sample(episode, number, messages, turn.answer))
            history += [Message(role="user", content=turn.query), Message(role="assistant", content=turn.answer)]
        return samples

    def _after(self, messages: Sequence[Message], completion: str, step: Step) -> list[Message]:
        return self.advance(messages, self.visible(completion), step.observation)

    def _sample(self, episode: Episode, turn: int, messages: Sequence[Message], completion: str) -> Sample:
        meta = {**episode.meta, "dialect": self.name, "turn": turn}
        return Sample(tuple(messages), completion, self.stop, episode.tools, meta)
