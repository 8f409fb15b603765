"""What an agent says in one turn, as text only: its calls run, and are not told."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

from starlette.concurrency import run_in_threadpool

from toolweave.agents.events import Answered, CallStarted, LimitReached, TextDelta
from toolweave.serving.calls import CallStream
from toolweave.studio.cast import cast
from toolweave.studio.workspace import Home
from toolweave.types import Message


async def answer_pieces(home: Home, agent: str, query: str, history: Sequence[Message]) -> AsyncIterator[str]:
    """Yield what the agent says to the user; what it says beside a call comes on a line of its own.

    Closing the iterator stops model and tools. Raises ToolweaveError.
    """
    acting = await run_in_threadpool(cast, home, agent, f"api:{uuid.uuid4().hex[:12]}")
    stream, said = CallStream(acting.agent.dialect), ""
    async with aclosing(acting.agent.arun_events(query, history=history, lang=acting.lang)) as events:
        async for event in events:
            piece = ""
            match event:
                case TextDelta(text):
                    piece = stream.push(text).content
                case CallStarted():
                    piece = stream.finish().content
                    piece += "\n" if said + piece and not (said + piece).endswith("\n") else ""
                    stream = CallStream(acting.agent.dialect)
                case Answered():
                    piece = stream.finish().content
                case LimitReached(_, text):
                    piece = f"\n{text}" if said else text
            if piece:
                said += piece
                yield piece
