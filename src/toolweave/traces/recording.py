"""Recording without a proxy: a model that stores what it is asked and what it says."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import suppress

from toolweave.models.interface import STOPPED, Model
from toolweave.traces.recorder import Recorder
from toolweave.traces.store import TraceStore
from toolweave.traces.trace import Exchange, ModelReply, Outcome
from toolweave.types import Json, Message, ToolSpec

_PATIENCE = 1.0


class RecordingModel:
    """A model that answers as `model` does and records every exchange; RolePlay takes it as its `llm`.

    A store that cannot be written costs a moment and never the answer: `recorder.state` counts what is missing.
    """

    def __init__(self, model: Model, store: TraceStore | Recorder, source: str = "role_play") -> None:
        self.recorder = store if isinstance(store, Recorder) else Recorder(store)
        self.model = str(getattr(model, "model", ""))
        self._model = model
        self._source = source

    def complete(
        self, messages: Sequence[Message], stop: Sequence[str], tools: Sequence[ToolSpec] = ()
    ) -> Generator[str, None, str]:
        """Yield the reply in pieces and return the finish reason; before it returns, the exchange is recorded."""
        started, begun = time.time(), time.perf_counter()
        pieces: list[str] = []
        first_token: float | None = None
        finish, outcome = "", Outcome.BROKEN_OFF
        deltas = self._model.complete(messages, stop, tools)
        try:
            while True:
                try:
                    piece = next(deltas)
                except StopIteration as end:
                    finish, outcome = end.value or STOPPED, Outcome.ANSWERED
                    return finish
                if first_token is None:
                    first_token = time.perf_counter() - begun
                pieces.append(piece)
                yield piece
        except GeneratorExit:
            # The reader has seen a stop word, or its user has gone.
            stopped = any(word and word in "".join(pieces) for word in stop)
            finish, outcome = (STOPPED, Outcome.ANSWERED) if stopped else ("", Outcome.CLIENT_LEFT)
            if isinstance(deltas, Generator):
                deltas.close()
            raise
        finally:
            request: Json = {
                "model": self.model,
                "messages": [dict(message) for message in messages],
                "stop": list(stop),
            }
            if tools:
                request["tools"] = [tool.openai() for tool in tools]
            latency = time.perf_counter() - begun
            reply = ModelReply("".join(pieces), finish_reason=finish)
            exchange = Exchange(request, reply, started, latency, first_token, outcome=outcome, source=self._source)
            self._record(exchange)

    def _record(self, exchange: Exchange) -> None:
        # One that takes longer stays in line, and is counted there.
        with suppress(TimeoutError):
            self.recorder.submit(exchange).result(_PATIENCE)
