"""The form: every field of an agent, saved as it is changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from toolweave.errors import ToolweaveError
from toolweave.knowledge import SUFFIXES
from toolweave.studio.changes import changed_fields
from toolweave.studio.defaults import default_tools
from toolweave.studio.form import Form, add_knowledge, avatar_file, set_avatar
from toolweave.studio.views import models, tools
from toolweave.types import Json, Lang

if TYPE_CHECKING:
    from toolweave.studio.shell import Studio

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def build(studio: Studio) -> None:
    """Build the view."""
    text = studio.text
    saved = gr.Markdown(text("configure.auto"), elem_id="saved")
    with gr.Row(elem_id="identity"):
        avatar = gr.Image(
            label=text("configure.avatar"), type="filepath", height=150, width=150, scale=0, min_width=150,
            sources=["upload"], elem_id="avatar", buttons=[], placeholder=text("configure.avatar_add"),
        )  # fmt: skip
        with gr.Column(scale=1, min_width=180):
            name = gr.Textbox(
                label=text("configure.name"), placeholder=text("configure.name_hint"), max_length=100, elem_id="name"
            )
            description = gr.Textbox(
                label=text("configure.description"), placeholder=text("configure.description_hint"), lines=1,
                elem_id="description",
            )  # fmt: skip
    instruction = gr.Textbox(
        label=text("configure.instruction"), placeholder=text("configure.instruction_hint"), lines=5, max_lines=14,
        elem_id="instruction",
    )  # fmt: skip
    with gr.Row():
        model = gr.Dropdown(label=text("configure.model"), choices=[], scale=3, elem_id="model")
        languages = [(text(f"configure.language_{lang}"), lang.value) for lang in Lang]
        language = gr.Radio(languages, label=text("configure.language"), scale=2, elem_id="language-of-agent")
    capabilities = [(entry["name"], key) for key, entry in default_tools(studio.lang).items()]
    used = gr.CheckboxGroup(
        capabilities, label=text("configure.capabilities"), info=text("configure.capabilities_info"), elem_id="tools"
    )
    prologue = gr.Textbox(label=text("configure.prologue"), lines=1, elem_id="prologue")
    suggestions = gr.Textbox(
        label=text("configure.suggestions"), info=text("configure.suggestions_info"), lines=3, max_lines=8,
        elem_id="suggestions",
    )  # fmt: skip
    with gr.Accordion(text("configure.knowledge"), open=False, elem_id="knowledge"):
        gr.Markdown(text("configure.knowledge_info", kinds=" ".join(SUFFIXES)))
        kept = gr.CheckboxGroup([], label=text("configure.knowledge_kept"))
        files = gr.File(
            label=text("configure.knowledge_add"), file_count="multiple", file_types=list(SUFFIXES), height=120
        )
    with gr.Accordion(text("configure.models"), open=False, elem_id="models"):
        models.build(studio)
    tools.build(studio)

    # What the form last showed or saved: only what differs from that comes from elsewhere, and replaces what is typed.
    known = gr.State({})
    fields = [name, description, instruction, language, model, prologue, suggestions, used, kept]

    def fill(agent: str, shown: Json, request: gr.Request) -> list[Any]:
        spec = studio.home(request).agent(agent, studio.lang) if agent else None
        if spec is None or spec.builder == shown:
            return [gr.skip()] * (len(fields) + 3)
        form, picture = Form.of(spec), avatar_file(spec)
        wrong = form.problems(spec, studio.lang)
        return [
            *_shown(form, wrong, list(spec.models)),
            gr.Image(value=Image.open(picture) if picture else None),
            text("configure.auto"),
            spec.builder,
        ]

    def save(agent: str, revision: int, request: gr.Request, *values: Any) -> list[Any]:
        home = studio.home(request)
        spec = home.agent(agent, studio.lang)
        form = Form(*values)
        changed = form.apply(spec)
        wrong = form.problems(spec, studio.lang)
        marks = [
            gr.Textbox(info=wrong.get("name")),
            gr.Textbox(info=wrong.get("instruction")),
            gr.Dropdown(info=wrong.get("model")),
        ]
        labels = changed_fields(spec.builder, changed.builder, studio.lang)
        if not labels:
            return [revision, gr.skip(), spec.builder, *marks]
        home.save_agent(agent, changed)
        return [revision + 1, text("configure.saved_fields", fields=", ".join(labels)), changed.builder, *marks]

    def upload(agent: str, revision: int, paths: list[str] | None, request: gr.Request) -> tuple[Any, ...]:
        if not paths:
            return revision, gr.skip(), None
        spec = _mendable(lambda: add_knowledge(studio.home(request), agent, [Path(path) for path in paths]))
        names = [str(name) for name in spec.builder["knowledge"]]
        return revision + 1, gr.CheckboxGroup(choices=names, value=names), None

    def picture(agent: str, revision: int, path: str | None, request: gr.Request) -> int:
        _mendable(lambda: set_avatar(studio.home(request), agent, Path(path) if path else None))
        return revision + 1

    state = [studio.agent, studio.revision]
    gr.on(
        [studio.agent.change, studio.revision.change],
        fill,
        [studio.agent, known],
        [*fields, avatar, saved, known],
        **_QUIET,
    )
    gr.on(
        [
            *(box.blur for box in (name, description, instruction, prologue, suggestions)),
            name.submit, model.input, language.input, used.input, kept.input,
        ],
        # What is changed while an earlier change is being saved is saved next.
        save, [*state, *fields], [studio.revision, saved, known, name, instruction, model],
        trigger_mode="always_last", **_QUIET,
    )  # fmt: skip
    files.upload(upload, [*state, files], [studio.revision, kept, files], **_QUIET)
    gr.on([avatar.upload, avatar.clear], picture, [*state, avatar], studio.revision, **_QUIET)


def _shown(form: Form, wrong: Any, known: list[str]) -> list[Any]:
    return [
        gr.Textbox(value=form.name, info=wrong.get("name")),
        form.description,
        gr.Textbox(value=form.instruction, info=wrong.get("instruction")),
        form.language,
        gr.Dropdown(
            choices=known, value=form.model or None, info=wrong.get("model"), allow_custom_value=form.model not in known
        ),
        form.prologue,
        form.suggestions,
        list(form.tools),
        gr.CheckboxGroup(choices=list(form.knowledge), value=list(form.knowledge)),
    ]


def _mendable(work: Callable[[], Any]) -> Any:
    """Do the work; what the user can mend is shown on the page."""
    try:
        return work()
    except ToolweaveError as error:
        raise gr.Error(str(error), print_exception=False) from error
