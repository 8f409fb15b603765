"""What the preview's events do. What shows a conversation follows it until it rests, or another one is shown."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from typing import cast as cast_type
from weakref import WeakValueDictionary

import gradio as gr

from toolweave.errors import ToolweaveError
from toolweave.studio.cast import Cast, cast
from toolweave.studio.consent import Answer, Question
from toolweave.studio.conversation import Conversation
from toolweave.studio.parts import shown
from toolweave.studio.rerun import Rerun
from toolweave.studio.talks import Fork, Place, begin, fork, own_talk, places, talks
from toolweave.studio.transcript import transcript
from toolweave.types import Json

if TYPE_CHECKING:
    from toolweave.studio.shell import Studio

Kept = dict[str, str]
Shown = AsyncIterator[tuple[Any, Any, Any, Any]]
"""Chat, entry, the box that asks for consent, and what it asks."""


class _Watch:
    """A page shows a conversation."""


class Talks:
    """The functions of the events of a preview. `talk` is the id of the conversation that the page shows."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        self._text = studio.text
        # Where a fork goes on, between the event that makes it and the one that asks.
        self._forks: dict[tuple[str, str], Fork] = {}
        # Who shows what in each page, for as long as it does.
        self._watching: WeakValueDictionary[str, _Watch] = WeakValueDictionary()

    def conversation(self, agent: str, kept: Kept, talk: str | None, request: gr.Request) -> Conversation:
        """Return the conversation that the page shows."""
        name = own_talk(talk, self._studio.session(kept, request))
        return self._studio.home(request).conversation(agent, name)

    def turn_of(self, conversation: Conversation, data: gr.RetryData | gr.EditData | gr.LikeData) -> int:
        """Return the number of the turn whose message an event is about."""
        owners = transcript(conversation.turns, self._studio.lang).turns
        # A list of messages has plain indices; that of a retry may lie behind the last message.
        return owners[min(cast_type(int, data.index), len(owners) - 1)]

    # --- which conversation ------------------------------------------------------------------

    def listed(self, agent: str, kept: Kept, request: gr.Request) -> Any:
        """Return the conversations with the agent; the last one is chosen."""
        self._leave(request)
        return self._drop(agent, kept, None, request) if agent else gr.skip()

    def relisted(self, agent: str, kept: Kept, talk: str, request: gr.Request) -> Any:
        """Return the conversations as they are called now; the chosen one stays."""
        return self._drop(agent, kept, talk, request)

    def begin(self, agent: str, kept: Kept, talk: str, request: gr.Request) -> tuple[Any, Any]:
        """Begin a new conversation, unless this one has not begun."""
        if not self.conversation(agent, kept, talk, request).turns:
            return gr.skip(), gr.skip()
        self._leave(request)
        new = begin(self._studio.home(request), agent, self._studio.session(kept, request))
        return self._drop(agent, kept, new, request), []

    def forget(self, agent: str, kept: Kept, talk: str, request: gr.Request) -> list[Json]:
        """Empty this conversation."""
        self._leave(request)
        self.conversation(agent, kept, talk, request).clear()
        return []

    def places(self, agent: str, kept: Kept, talk: str, request: gr.Request) -> tuple[Any, Any]:
        """Open the box to fork from, with the places there are; the last one is chosen."""
        found = places(self.conversation(agent, kept, talk, request), self._studio.lang)
        if not found:
            gr.Info(self._text("preview.fork_nothing"), duration=4)
            return gr.Column(visible=False), gr.skip()
        choices = [(name, value) for value, name in found.items()]
        return gr.Column(visible=True), gr.Dropdown(choices=choices, value=choices[-1][1])

    def fork(self, agent: str, kept: Kept, talk: str, place: str, request: gr.Request) -> tuple[Any, Any, Any]:
        """Make a conversation that begins as this one up to a place, and show it."""
        home, session = self._studio.home(request), self._studio.session(kept, request)
        try:
            made = fork(home, agent, session, self.conversation(agent, kept, talk, request), Place.read(place or ""))
        except ToolweaveError as error:
            raise shown(error) from error
        self._leave(request)
        self._forks[session, made.talk] = made
        begun = transcript(home.conversation(agent, made.talk).turns, self._studio.lang)
        chat = gr.Chatbot(value=begun.messages, feedback_value=begun.feedback)
        return self._drop(agent, kept, made.talk, request), gr.Column(visible=False), chat

    async def go_on(self, agent: str, kept: Kept, talk: str, pretend: bool, request: gr.Request) -> Shown:
        """Go on from the place of the fork: with the next step, or with its question to edit."""
        made = self._forks.pop((self._studio.session(kept, request), talk), None)
        conversation = self.conversation(agent, kept, talk, request)
        if made is None or made.rerun is None:
            query: Any = {"text": made.query if made else "", "files": []}
            yield gr.skip(), gr.MultimodalTextbox(value=query), gr.skip(), gr.skip()
            return
        async for now in self._ask(conversation, agent, made.query, made.files, pretend, request, made.rerun):
            yield now

    # --- talking -----------------------------------------------------------------------------

    async def show(self, agent: str, kept: Kept, talk: str, request: gr.Request) -> Shown:
        """Show a conversation, and what still comes of it."""
        if agent:
            async for now in self._follow(self.conversation(agent, kept, talk, request), request):
                yield now

    async def send(self, message: Json, agent: str, kept: Kept, talk: str, pretend: bool, request: gr.Request) -> Shown:
        """Ask what the entry holds."""
        if not message["text"].strip() and not message["files"]:
            return
        session = self._studio.session(kept, request)
        files = [str(self._studio.home(request).upload(session, Path(file))) for file in message["files"]]
        conversation = self.conversation(agent, kept, talk, request)
        async for now in self._ask(conversation, agent, message["text"], files, pretend, request):
            yield now

    async def suggested(
        self, agent: str, kept: Kept, talk: str, pretend: bool, request: gr.Request, data: gr.SelectData
    ) -> Shown:
        """Ask a suggestion."""
        message = {"text": data.value["text"], "files": []}
        async for now in self.send(message, agent, kept, talk, pretend, request):
            yield now

    async def again(
        self, agent: str, kept: Kept, talk: str, pretend: bool, request: gr.Request, data: gr.RetryData
    ) -> Shown:
        """Ask a question once more."""
        conversation = self.conversation(agent, kept, talk, request)
        gone = conversation.rewind(self.turn_of(conversation, data))
        async for now in self._ask(conversation, agent, gone.query, gone.files, pretend, request):
            yield now

    async def edited(
        self, agent: str, kept: Kept, talk: str, pretend: bool, request: gr.Request, data: gr.EditData
    ) -> Shown:
        """Ask a question as it was rewritten; what came after it is gone."""
        conversation = self.conversation(agent, kept, talk, request)
        gone = conversation.rewind(self.turn_of(conversation, data))
        async for now in self._ask(conversation, agent, str(data.value), gone.files, pretend, request):
            yield now

    def stop(self, agent: str, kept: Kept, talk: str, request: gr.Request) -> None:
        """Stop the turn under way."""
        self.conversation(agent, kept, talk, request).stop()

    def answer(self, answer: Answer) -> Callable[..., None]:
        """Return what gives this answer to the call that waits."""

        def give(agent: str, kept: Kept, talk: str, request: gr.Request) -> None:
            self.conversation(agent, kept, talk, request).answer(answer)

        return give

    def _drop(self, agent: str, kept: Kept, talk: str | None, request: gr.Request) -> gr.Dropdown:
        home, session = self._studio.home(request), self._studio.session(kept, request)
        found = talks(home, agent, session, self._studio.lang)
        chosen = talk if talk in found else next(iter(found))
        choices = [(title, name) for name, title in found.items()]
        return gr.Dropdown(choices=choices, value=chosen, visible=len(found) > 1)

    async def _ask(
        self, talk: Conversation, agent: str, query: str, files: Sequence[str], pretend: bool, request: gr.Request,
        rerun: Rerun | None = None,
    ) -> Shown:  # fmt: skip
        home = self._studio.home(request)
        # A visitor of a shared agent cannot allow what happens on its owner's machine.
        confirm = None if home.visited else talk.consent

        def make(source: str) -> Cast:
            return cast(home, agent, source, simulate_all=pretend, confirm=confirm, rerun=rerun)

        try:
            talk.ask(query, make, files)
        except ToolweaveError as error:
            raise shown(error) from error
        async for now in self._follow(talk, request, emptied=True):
            yield now

    def _leave(self, request: gr.Request) -> None:
        """Let nothing that is under way write to the page any more."""
        self._watching.pop(request.session_hash or "", None)

    async def _follow(self, talk: Conversation, request: gr.Request, *, emptied: bool = False) -> Shown:
        page, mine = request.session_hash or "", _Watch()
        self._watching[page] = mine
        first, asked = True, None
        async for _ in talk.follow(lambda: self._watching.get(page) is mine):
            seen, question = transcript(talk.turns, self._studio.lang), talk.question
            # While an answer comes, the button to send is the button to stop.
            entry: dict[str, Any] = {
                "submit_btn": not talk.running and self._text("preview.send"),
                "stop_btn": talk.running and self._text("preview.stop"),
            }
            if first and emptied:
                entry["value"] = {"text": "", "files": []}
            busy = gr.MultimodalTextbox(**entry) if first or not talk.running else gr.skip()
            asks: tuple[Any, Any] = (gr.skip(), gr.skip())
            if first or question is not asked:
                asks = (gr.Column(visible=question is not None), self._question(question))
            first, asked = False, question
            yield gr.Chatbot(value=seen.messages, feedback_value=seen.feedback), busy, *asks

    def _question(self, question: Question | None) -> str:
        if question is None:
            return ""
        asked = escape(self._text("preview.consent", tool=question.tool))
        return f'<p role="alert">⚠ {asked}</p><pre>{escape(question.arguments)}</pre>'
