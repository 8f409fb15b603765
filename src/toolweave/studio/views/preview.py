"""The preview: talk to the agent as it stands, see its calls, stop it, and say what it should have said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from toolweave.agents.spec import AgentSpec
from toolweave.errors import ToolweaveError
from toolweave.studio.cast import cast
from toolweave.studio.changes import changed_fields
from toolweave.studio.conversation import Conversation
from toolweave.studio.form import avatar_file
from toolweave.studio.status import status
from toolweave.studio.transcript import transcript
from toolweave.traces.trace import FeedbackKind
from toolweave.types import Json

if TYPE_CHECKING:
    from toolweave.studio.shell import Studio

Kept = dict[str, str]
Shown = AsyncIterator[tuple[Any, Any]]


def build(studio: Studio) -> None:
    """Build the view."""
    text = studio.text
    about = gr.HTML(elem_id="about")
    chat = gr.Chatbot(
        elem_id="chat", show_label=False, height=560, layout="bubble", placeholder="", buttons=["copy"],
        editable="user", feedback_options=("Like", "Dislike"), autoscroll=True, allow_tags=False,
    )  # fmt: skip
    with gr.Group(visible=False, elem_id="correction") as correction:
        wanted = gr.Textbox(label=text("preview.correction"), info=text("preview.correction_info"), lines=3)
        keep_wanted = gr.Button(
            text("preview.correction_save"), size="sm", variant="primary", elem_id="keep-correction"
        )
    box = gr.MultimodalTextbox(
        elem_id="ask", show_label=False, placeholder=text("preview.placeholder"), file_count="multiple",
        submit_btn=text("preview.send"), stop_btn=False, lines=1, max_lines=6, max_plain_text_length=100_000,
    )  # fmt: skip
    with gr.Row(elem_id="chat-tools"):
        simulate_all = gr.Checkbox(
            label=text("preview.simulate_all"), info=text("preview.simulate_info"), container=False
        )
        clear = gr.Button(text("preview.clear"), size="sm", scale=0, min_width=100, elem_id="new-chat")
    rated, known = gr.State(-1), gr.State({})
    _connect(studio, about, chat, box, simulate_all, clear, known)
    _connect_feedback(studio, chat, correction, wanted, keep_wanted, rated)


def _connect(
    studio: Studio, about: gr.HTML, chat: gr.Chatbot, box: gr.MultimodalTextbox, simulate_all: gr.Checkbox,
    clear: gr.Button, known: gr.State,
) -> None:  # fmt: skip
    """Connect what asks and shows. What shows a conversation follows it until it rests; another agent ends that."""
    text = studio.text

    def conversation(agent: str, kept: Kept, request: gr.Request) -> Conversation:
        return studio.home(request).conversation(agent, studio.session(kept, request))

    async def follow(talk: Conversation, *, emptied: bool = False) -> Shown:
        first = True
        async for _ in talk.follow():
            shown = transcript(talk.turns, studio.lang)
            # While an answer comes, the button to send is the button to stop.
            entry: dict[str, Any] = {
                "submit_btn": not talk.running and text("preview.send"),
                "stop_btn": talk.running and text("preview.stop"),
            }
            if first and emptied:
                entry["value"] = {"text": "", "files": []}
            busy = gr.MultimodalTextbox(**entry) if first or not talk.running else gr.skip()
            first = False
            yield gr.Chatbot(value=shown.messages, feedback_value=shown.feedback), busy

    async def ask(
        talk: Conversation, agent: str, query: str, files: list[str], pretend: bool, request: gr.Request
    ) -> Shown:
        home = studio.home(request)
        try:
            talk.ask(query, lambda source: cast(home, agent, source, simulate_all=pretend), files)
        except ToolweaveError as error:
            raise gr.Error(str(error), print_exception=False) from error
        async for shown in follow(talk, emptied=True):
            yield shown

    async def send(message: Json, agent: str, kept: Kept, pretend: bool, request: gr.Request) -> Shown:
        if not message["text"].strip() and not message["files"]:
            return
        session = studio.session(kept, request)
        files = [str(studio.home(request).upload(session, Path(file))) for file in message["files"]]
        talk = conversation(agent, kept, request)
        async for shown in ask(talk, agent, message["text"], files, pretend, request):
            yield shown

    async def suggested(agent: str, kept: Kept, pretend: bool, request: gr.Request, data: gr.SelectData) -> Shown:
        async for shown in send({"text": data.value["text"], "files": []}, agent, kept, pretend, request):
            yield shown

    async def again(agent: str, kept: Kept, pretend: bool, request: gr.Request, data: gr.RetryData) -> Shown:
        talk = conversation(agent, kept, request)
        owners = transcript(talk.turns, studio.lang).turns
        gone = talk.rewind(owners[min(int(data.index), len(owners) - 1)])  # type: ignore[arg-type]  # a list of messages has plain indices
        async for shown in ask(talk, agent, gone.query, gone.files, pretend, request):
            yield shown

    async def edited(agent: str, kept: Kept, pretend: bool, request: gr.Request, data: gr.EditData) -> Shown:
        talk = conversation(agent, kept, request)
        gone = talk.rewind(transcript(talk.turns, studio.lang).turns[int(data.index)])  # type: ignore[arg-type]  # as above
        async for shown in ask(talk, agent, str(data.value), gone.files, pretend, request):
            yield shown

    async def show(agent: str, kept: Kept, request: gr.Request) -> Shown:
        if agent:
            async for shown in follow(conversation(agent, kept, request)):
                yield shown

    def stop(agent: str, kept: Kept, request: gr.Request) -> None:
        conversation(agent, kept, request).stop()

    def forget(agent: str, kept: Kept, request: gr.Request) -> list[Json]:
        conversation(agent, kept, request).clear()
        return []

    def describe(agent: str, pretend: bool, request: gr.Request) -> tuple[Any, Any, Any]:
        if not agent:
            return gr.skip(), gr.skip(), gr.skip()
        home = studio.home(request)
        spec = home.agent(agent, studio.lang)
        chatbot = gr.Chatbot(
            placeholder=_cover(agent, spec), examples=[{"text": text} for text in spec.suggestions[:4]]
        )
        return status(home, spec, studio.lang, simulate_all=pretend), chatbot, spec.builder

    def tell(agent: str, before: Json, request: gr.Request) -> None:
        fields = changed_fields(before, studio.home(request).agent(agent, studio.lang).builder, studio.lang)
        if fields:
            gr.Info(text("preview.changed", fields=", ".join(fields)), duration=4)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
    where = [studio.agent, studio.browser]
    both = [chat, box]
    showing = studio.agent.change(show, where, both, **quiet)
    asking = [
        box.submit(send, [box, *where, simulate_all], both, **quiet),
        chat.example_select(suggested, [*where, simulate_all], both, **quiet),
        chat.retry(again, [*where, simulate_all], both, **quiet),
        chat.edit(edited, [*where, simulate_all], both, **quiet),
    ]
    studio.agent.change(None, cancels=list[Any](asking))
    box.stop(stop, where, None, **quiet)
    gr.on([clear.click, chat.clear], forget, where, chat, cancels=[showing], **quiet)
    described = [about, chat, known]
    gr.on([studio.agent.change, simulate_all.change], describe, [studio.agent, simulate_all], described, **quiet)
    studio.revision.change(tell, [studio.agent, known], None, **quiet).then(
        describe, [studio.agent, simulate_all], described, **quiet
    )


def _connect_feedback(
    studio: Studio, chat: gr.Chatbot, correction: gr.Group, wanted: gr.Textbox, keep: gr.Button, rated: gr.State
) -> None:
    text = studio.text

    def rate(agent: str, kept: Kept, request: gr.Request, data: gr.LikeData) -> tuple[Any, int]:
        talk = studio.home(request).conversation(agent, studio.session(kept, request))
        turn = transcript(talk.turns, studio.lang).turns[int(data.index)]  # type: ignore[arg-type]  # a plain index
        try:
            talk.give_feedback(turn, FeedbackKind.THUMBS_UP if data.liked else FeedbackKind.THUMBS_DOWN)
        except ToolweaveError:
            gr.Warning(text("preview.not_recorded"))
            return gr.Group(visible=False), -1
        gr.Info(text("preview.thanks"), duration=3)
        return gr.Group(visible=not data.liked), turn

    def correct(agent: str, kept: Kept, turn: int, said: str, request: gr.Request) -> tuple[Any, str]:
        if turn < 0 or not said.strip():
            return gr.skip(), said
        talk = studio.home(request).conversation(agent, studio.session(kept, request))
        talk.give_feedback(turn, FeedbackKind.CORRECTION, said.strip())
        gr.Info(text("preview.correction_saved"), duration=4)
        return gr.Group(visible=False), ""

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    where = [studio.agent, studio.browser]
    chat.like(rate, where, [correction, rated], **quiet)
    keep.click(correct, [*where, rated, wanted], [correction, wanted], **quiet)


def _cover(agent: str, spec: AgentSpec) -> str:
    """Return what an empty chat shows."""
    name = escape(spec.name)
    face = f'<div class="face">{name[:1]}</div>'
    if avatar_file(spec) is not None:
        face = f'<img src="/agents/{agent}/avatar" alt="">'
    said = "".join(f"<p>{escape(text)}</p>" for text in (spec.description, spec.prologue) if text)
    return f'<div class="cover">{face}<h2>{name}</h2>{said}</div>'
