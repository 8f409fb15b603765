"""The view that compares two models: on one question side by side, and on the held-out visits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from toolweave.errors import ToolweaveError
from toolweave.studio import adopt
from toolweave.studio.cast import Cast, cast
from toolweave.studio.compare import RUN, Wanted, begin, latest, ready
from toolweave.studio.compare_html import held_out_html
from toolweave.studio.conversation import Conversation
from toolweave.studio.parts import enclosing_tab, note, shown
from toolweave.studio.runs import Runs
from toolweave.studio.transcript import transcript
from toolweave.types import Json

if TYPE_CHECKING:
    from toolweave.studio.shell import Studio
    from toolweave.studio.workspace import Home

_SIDES = ("left", "right")
_GLANCE = 0.1  # seconds
_TICK = 1.0
_VISITS = 20
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
Kept = dict[str, str]


def build(studio: Studio) -> None:
    """Make the view in the open tab."""
    view, text = _View(studio), studio.text
    with gr.Row(elem_id="compare-models", equal_height=True):
        models = [
            gr.Dropdown([], label=text(f"compare.{side}"), elem_id=f"compare-{side}", min_width=260) for side in _SIDES
        ]
    with gr.Row():
        uses = [gr.Button(text(f"compare.use_{side}"), size="sm", elem_id=f"compare-use-{side}") for side in _SIDES]
    said = gr.HTML(elem_id="compare-said", padding=False)
    with gr.Tabs():
        with gr.Tab(text("compare.live"), elem_id="compare-live"):
            with gr.Row():
                chats = [
                    gr.Chatbot(
                        label=text(f"compare.{side}"), elem_id=f"compare-chat-{side}", height=420, buttons=["copy"],
                        allow_tags=False, min_width=300,
                    )
                    for side in _SIDES
                ]  # fmt: skip
            with gr.Row(equal_height=True):
                query = gr.Textbox(
                    show_label=False, label=text("compare.ask"), placeholder=text("compare.ask"), scale=8,
                    elem_id="compare-ask", max_lines=4, container=False,
                )  # fmt: skip
                send = gr.Button(text("compare.send"), variant="primary", min_width=80, elem_id="compare-send")
                stop = gr.Button(text("compare.stop"), min_width=80, elem_id="compare-stop")
                clear = gr.Button(text("compare.clear"), min_width=80, elem_id="compare-clear")
            simulate = gr.Checkbox(value=True, label=text("compare.simulate"), container=False)
        with gr.Tab(text("compare.held_out"), elem_id="compare-held-out"):
            gr.Markdown(text("compare.evaluate_hint"))
            with gr.Row(equal_height=True):
                count = gr.Slider(
                    1, 300, value=_VISITS, step=1, label=text("compare.count"), elem_id="compare-count", min_width=260
                )
                evaluate = gr.Button(text("compare.evaluate"), variant="primary", elem_id="compare-evaluate")
            as_agent = gr.Checkbox(label=text("compare.as_agent"), info=text("compare.as_agent_hint"))
            visits = gr.HTML(elem_id="compare-visits", padding=False)
    timer = gr.Timer(_TICK, active=False)

    asked = [query, *models, simulate, studio.agent, studio.browser]
    where = [studio.agent, studio.browser]
    enclosing_tab().select(view.opened, [*models, studio.agent], [*models, visits, timer], **_QUIET)
    gr.on([send.click, query.submit], view.asked, asked, [*chats, query], **_QUIET)
    stop.click(view.stopped, where, None, **_QUIET)
    clear.click(view.cleared, where, chats, **_QUIET)
    evaluate.click(view.evaluated, [*models, count, as_agent, studio.agent], [visits, timer], **_QUIET)
    timer.tick(view.ticked, None, [visits, timer], **_QUIET)
    for use, model in zip(uses, models, strict=True):
        used = use.click(view.used, [model, studio.agent], said, api_visibility="private", show_progress="minimal")
        used.success(lambda number: number + 1, studio.revision, studio.revision, **_QUIET)


class _View:
    """The functions of the view's events."""

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.text = studio.text

    def opened(self, left: str | None, right: str | None, agent: str, request: gr.Request) -> list[Any]:
        """Return the models to choose from, and the last comparison."""
        home = self.studio.home(request)
        runs = [run.name for run in Runs(home.runs).all() if run.checkpoint_steps]
        choices = [(key, key) for key in home.models()]
        choices += [(self.text("compare.run", name=name), f"{RUN}{name}") for name in runs]
        values = [value for _, value in choices]
        own = home.agent(agent, self.studio.lang).model if agent else ""
        first = left if left in values else (own if own in values else values[0])
        second = right if right in values else (f"{RUN}{runs[0]}" if runs else values[0])
        drops = [gr.Dropdown(choices=choices, value=value) for value in (first, second)]
        return [*drops, *self.ticked(request)]

    async def asked(
        self, query: str, left: str, right: str, simulate: bool, agent: str, kept: Kept, request: gr.Request
    ) -> AsyncIterator[Any]:
        """Ask both models, and yield what both chats show until both are done."""
        if not query.strip():
            return
        home = self.studio.home(request)
        talks = self._talks(home, agent, kept, request)
        try:
            if not left or not right:
                raise ToolweaveError(self.text("compare.choose"))
            for talk, choice in zip(talks, (left, right), strict=True):

                def make(source: str, choice: str = choice) -> Cast:
                    return cast(home, agent, source, model=ready(home, choice), simulate_all=simulate)

                talk.ask(query.strip(), make)
        except ToolweaveError as error:
            raise shown(error) from error
        async for chats in self._follow(talks):
            yield [*chats, ""]

    def stopped(self, agent: str, kept: Kept, request: gr.Request) -> None:
        """Stop both."""
        for talk in self._talks(self.studio.home(request), agent, kept, request):
            talk.stop()

    def cleared(self, agent: str, kept: Kept, request: gr.Request) -> list[Any]:
        """Forget both conversations."""
        for talk in self._talks(self.studio.home(request), agent, kept, request):
            talk.clear()
        return [[], []]

    def evaluated(
        self, left: str, right: str, count: float, as_agent: bool, agent: str, request: gr.Request
    ) -> list[Any]:
        """Begin the comparison on held-out visits."""
        home = self.studio.home(request)
        try:
            begin(home, Wanted(left, right, int(count), agent if as_agent else "", self.studio.lang))
        except ToolweaveError as error:
            raise shown(error) from error
        return self.ticked(request)

    def ticked(self, request: gr.Request) -> list[Any]:
        """Return the last comparison as it is now."""
        contest = latest(self.studio.home(request))
        if contest is None:
            return ["", gr.Timer(active=False)]
        running = contest.running
        return [held_out_html(contest, self.text, self.studio.lang), gr.Timer(active=running)]

    def used(self, choice: str, agent: str, request: gr.Request) -> Iterator[str]:
        """Let the current agent use a model, and start its server."""
        home = self.studio.home(request)
        yield note(self.text("compare.using", model=choice.removeprefix(RUN)))
        try:
            key = ready(home, choice)
            adopt.use(home, agent, key)
        except ToolweaveError as error:
            raise shown(error) from error
        yield note(self.text("compare.used", agent=home.agent(agent, self.studio.lang).name, model=key), "pass")

    async def _follow(self, talks: list[Conversation]) -> AsyncIterator[list[list[Json]]]:
        before: list[list[Json]] = []
        while True:
            done = not any(talk.running for talk in talks)
            now = [transcript(talk.turns, self.studio.lang).messages for talk in talks]
            if now != before:
                yield now
                before = now
            if done:
                return
            await asyncio.sleep(_GLANCE)

    def _talks(self, home: Home, agent: str, kept: Kept, request: gr.Request) -> list[Conversation]:
        session = self.studio.session(kept, request)
        return [home.conversation(agent, f"{session}.{side}") for side in _SIDES]
