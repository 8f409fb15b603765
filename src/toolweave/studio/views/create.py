"""Create: tell the builder what agent is wanted; every change shows in the preview at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import gradio as gr

from toolweave.errors import ToolweaveError
from toolweave.studio.builder import GUIDE, Builder
from toolweave.studio.changes import changed_fields
from toolweave.types import Json

if TYPE_CHECKING:
    from toolweave.studio.shell import Studio

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build(studio: Studio) -> None:
    """Build the view."""
    text = studio.text
    chat = gr.Chatbot(
        elem_id="builder-chat", show_label=False, height=460, layout="bubble", feedback_options=None, buttons=[],
        allow_tags=False,
    )  # fmt: skip
    box = gr.Textbox(
        elem_id="builder-ask", show_label=False, label=text("create.intro"), placeholder=text("create.placeholder"),
        submit_btn=text("create.send"), lines=2, max_lines=8,
    )  # fmt: skip
    with gr.Row(equal_height=True):
        guide = (text("create.guide"), GUIDE)
        model = gr.Dropdown(
            [guide], value=GUIDE, label=text("create.with"), info=text("create.with_info"), elem_id="builder-model"
        )
        again = gr.Button(text("create.again"), size="sm", scale=0, min_width=110, elem_id="builder-again")

    def opening() -> list[Json]:
        return [
            {"role": "assistant", "content": text("create.intro")},
            {"role": "assistant", "content": text("create.guide_description")},
        ]

    def builder(agent: str, request: gr.Request) -> Builder:
        return Builder(studio.home(request), agent, studio.lang)

    def show(agent: str, request: gr.Request) -> tuple[Any, Any]:
        if not agent:
            return gr.skip(), gr.skip()
        home = studio.home(request)
        models = [guide, *((key, key) for key in home.models() if home.can_build(key))]
        # A model that can do it goes before the guide, the user's newest first.
        best = models[-1][1]
        return [*opening(), *builder(agent, request).history], gr.Dropdown(choices=models, value=best)

    def send(said: str, agent: str, model: str, revision: int, request: gr.Request) -> Iterator[tuple[Any, Any, Any]]:
        if not said.strip():
            yield gr.skip(), gr.skip(), gr.skip()
            return
        home = studio.home(request)
        talk, before = builder(agent, request), home.agent(agent, studio.lang).builder
        messages: list[Any] = [*opening(), *talk.history, {"role": "user", "content": said}]
        yield messages, "", gr.skip()
        answer = ""
        try:
            for built in talk.chat(said, model):
                answer = built.answer
                yield [*messages, {"role": "assistant", "content": answer}], gr.skip(), gr.skip()
        except ToolweaveError as error:
            yield [*messages, {"role": "assistant", "content": f"> ⚠ {error}"}], said, gr.skip()
            return
        fields = changed_fields(before, home.agent(agent, studio.lang).builder, studio.lang)
        if fields:
            note = f"{answer}\n\n*✓ {text('create.updated', fields=', '.join(fields))}*"
            yield [*messages, {"role": "assistant", "content": note}], gr.skip(), revision + 1

    def forget(agent: str, request: gr.Request) -> list[Json]:
        builder(agent, request).forget()
        return opening()

    gr.on([studio.agent.change], show, studio.agent, [chat, model], **_QUIET)
    box.submit(
        send,
        [box, studio.agent, model, studio.revision],
        [chat, box, studio.revision],
        concurrency_limit=None,
        **_QUIET,
    )
    again.click(forget, studio.agent, chat, **_QUIET)
