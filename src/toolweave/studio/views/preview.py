"""The preview: talk to the agent as it stands, see its calls, stop it, and say what it should have said."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from toolweave.agents.spec import AgentSpec
from toolweave.errors import ToolweaveError
from toolweave.studio.changes import changed_fields
from toolweave.studio.consent import Answer
from toolweave.studio.form import avatar_file
from toolweave.studio.status import status
from toolweave.studio.views.talk import Kept, Talks
from toolweave.traces.trace import FeedbackKind
from toolweave.types import Json

if TYPE_CHECKING:
    from toolweave.studio.shell import Studio

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}


def build(studio: Studio) -> None:
    """Build the view."""
    text = studio.text
    about = gr.HTML(elem_id="about")
    talk = gr.Dropdown([], label=text("preview.talks"), elem_id="talks", visible=False)
    chat = gr.Chatbot(
        elem_id="chat", show_label=False, height=560, layout="bubble", placeholder="", buttons=["copy"],
        editable="user", feedback_options=("Like", "Dislike"), autoscroll=True, allow_tags=False,
    )  # fmt: skip
    with gr.Group(visible=False, elem_id="correction") as correction:
        wanted = gr.Textbox(label=text("preview.correction"), info=text("preview.correction_info"), lines=3)
        keep_wanted = gr.Button(
            text("preview.correction_save"), size="sm", variant="primary", elem_id="keep-correction"
        )
    with gr.Column(visible=False, elem_id="consent", elem_classes="panel") as consent:
        question = gr.HTML()
        with gr.Row():
            answers = {
                answer: gr.Button(
                    text(f"preview.consent_{answer}"), size="sm", elem_id=f"consent-{answer}", min_width=90,
                    variant="primary" if answer is Answer.ONCE else "secondary",
                )
                for answer in Answer
            }  # fmt: skip
    box = gr.MultimodalTextbox(
        elem_id="ask", show_label=False, label=text("preview.placeholder"), placeholder=text("preview.placeholder"),
        file_count="multiple", submit_btn=text("preview.send"), stop_btn=False, lines=1, max_lines=6,
        max_plain_text_length=100_000,
    )  # fmt: skip
    with gr.Row(elem_id="chat-tools"):
        simulate_all = gr.Checkbox(
            label=text("preview.simulate_all"), info=text("preview.simulate_info"), container=False
        )
        fork = gr.Button(text("preview.fork"), size="sm", scale=0, min_width=100, elem_id="fork")
        clear = gr.Button(text("preview.clear"), size="sm", scale=0, min_width=100, elem_id="new-chat")
    with gr.Column(visible=False, elem_id="forking", elem_classes="panel") as forking:
        place = gr.Dropdown([], label=text("preview.fork_from"), info=text("preview.fork_info"), elem_id="fork-from")
        go = gr.Button(text("preview.fork_go"), size="sm", variant="primary", elem_id="fork-go")

    view = Talks(studio)
    where, both = [studio.agent, studio.browser, talk], [chat, box, consent, question]
    # What shows a conversation ends by itself when another one is shown: none has to wait for it.
    shows: dict[str, Any] = {**_QUIET, "trigger_mode": "multiple"}
    studio.agent.change(view.listed, where[:2], talk, **_QUIET).then(view.show, where, both, **shows)
    talk.input(view.show, where, both, **shows)
    for event, ask, given in (
        (box.submit, view.send, [box]), (chat.example_select, view.suggested, []), (chat.retry, view.again, []),
        (chat.edit, view.edited, []),
    ):  # fmt: skip
        event(ask, [*given, *where, simulate_all], both, **_QUIET).then(view.relisted, where, talk, **_QUIET)
    go.click(view.fork, [*where, place], [talk, forking, chat], **_QUIET).success(
        view.go_on, [*where, simulate_all], both, **shows
    ).then(view.relisted, where, talk, **_QUIET)
    box.stop(view.stop, where, None, **_QUIET)
    chat.clear(view.forget, where, chat, **_QUIET)
    clear.click(view.begin, where, [talk, chat], **_QUIET)
    fork.click(view.places, where, [forking, place], **_QUIET)
    for answer, button in answers.items():
        button.click(view.answer(answer), where, None, **_QUIET)
    _connect_feedback(studio, view, chat, correction, wanted, keep_wanted, where)
    _connect_about(studio, about, chat, simulate_all)


def _connect_about(studio: Studio, about: gr.HTML, chat: gr.Chatbot, simulate_all: gr.Checkbox) -> None:
    """Connect what tells of the agent as it is, and of its changes."""
    known = gr.State({})

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
            gr.Info(studio.text("preview.changed", fields=", ".join(fields)), duration=4)

    described = [about, chat, known]
    gr.on([studio.agent.change, simulate_all.change], describe, [studio.agent, simulate_all], described, **_QUIET)
    studio.revision.change(tell, [studio.agent, known], None, **_QUIET).then(
        describe, [studio.agent, simulate_all], described, **_QUIET
    )


def _connect_feedback(
    studio: Studio, view: Talks, chat: gr.Chatbot, correction: gr.Group, wanted: gr.Textbox, keep: gr.Button,
    where: list[Any],
) -> None:  # fmt: skip
    text, rated = studio.text, gr.State(-1)

    def rate(agent: str, kept: Kept, talk: str, request: gr.Request, data: gr.LikeData) -> tuple[Any, int]:
        conversation = view.conversation(agent, kept, talk, request)
        turn = view.turn_of(conversation, data)
        try:
            conversation.give_feedback(turn, FeedbackKind.THUMBS_UP if data.liked else FeedbackKind.THUMBS_DOWN)
        except ToolweaveError:
            gr.Warning(text("preview.not_recorded"))
            return gr.Group(visible=False), -1
        gr.Info(text("preview.thanks"), duration=3)
        return gr.Group(visible=not data.liked), turn

    def correct(agent: str, kept: Kept, talk: str, turn: int, said: str, request: gr.Request) -> tuple[Any, str]:
        if turn < 0 or not said.strip():
            return gr.skip(), said
        view.conversation(agent, kept, talk, request).give_feedback(turn, FeedbackKind.CORRECTION, said.strip())
        gr.Info(text("preview.correction_saved"), duration=4)
        return gr.Group(visible=False), ""

    chat.like(rate, where, [correction, rated], **_QUIET)
    keep.click(correct, [*where, rated, wanted], [correction, wanted], **_QUIET)


def _cover(agent: str, spec: AgentSpec) -> str:
    """Return what an empty chat shows."""
    name, picture = escape(spec.name), avatar_file(spec)
    face = f'<div class="face">{name[:1]}</div>'
    if picture is not None:
        face = f'<img src="/agents/{agent}/avatar?{picture.stat().st_mtime_ns}" alt="">'
    said = "".join(f"<p>{escape(text)}</p>" for text in (spec.description, spec.prologue) if text)
    return f'<div class="cover">{face}<h2>{name}</h2>{said}</div>'
