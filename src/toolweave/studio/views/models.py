"""The list of models: add, edit, test and remove."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import gradio as gr

from toolweave.errors import ToolweaveError
from toolweave.models.presets import PRESETS
from toolweave.studio.probe import probe
from toolweave.types import Json

if TYPE_CHECKING:
    from toolweave.studio.shell import Studio

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_OWN_FIELDS = ("type", "model_server", "model", "api_base", "api_key")


def build(studio: Studio) -> None:
    """Build the part of the form."""
    text = studio.text
    gr.Markdown(text("configure.models_info"))
    new = (text("configure.entry_new"), "")
    chosen = gr.Dropdown([new], value="", label=text("configure.entry"), elem_id="entry")
    with gr.Row():
        key = gr.Textbox(label=text("configure.entry_key"), min_width=140, elem_id="entry-key")
        kind = gr.Dropdown(list(PRESETS), value="openai", label=text("configure.entry_type"), min_width=140)
    with gr.Row():
        model = gr.Textbox(label=text("configure.entry_model"), min_width=140, elem_id="entry-model")
        base = gr.Textbox(label=text("configure.entry_base"), min_width=140, elem_id="entry-base")
    with gr.Row():
        secret = gr.Textbox(
            label=text("configure.entry_api_key"), type="password", min_width=140, elem_id="entry-secret"
        )
        more = gr.Textbox(
            label=text("configure.entry_more"), min_width=140, placeholder='{"generate_cfg": {"top_p": 0.8}}'
        )
    with gr.Row():
        save = gr.Button(text("configure.entry_save"), variant="primary", size="sm", elem_id="entry-save")
        test = gr.Button(text("configure.entry_test"), size="sm", elem_id="entry-test")
        remove = gr.Button(text("configure.entry_delete"), size="sm")
    result = gr.Markdown(elem_id="entry-result")
    fields = [key, kind, model, base, secret, more]

    def choices(request: gr.Request, value: str = "") -> gr.Dropdown:
        return gr.Dropdown(choices=[new, *((name, name) for name in studio.home(request).models())], value=value)

    def edit(name: str, request: gr.Request) -> list[Any]:
        home = studio.home(request)
        entry: Json = home.models().get(name) or {}
        rest = {field: value for field, value in entry.items() if field not in _OWN_FIELDS}
        kept = text("configure.entry_key_kept") if name and home.has_key(entry) else ""
        return [
            name, entry.get("type") or entry.get("model_server") or "openai", entry.get("model", ""),
            entry.get("api_base", ""), gr.Textbox(value="", placeholder=kept),
            json.dumps(rest, ensure_ascii=False) if rest else "", "",
        ]  # fmt: skip

    def keep(
        revision: int, key: str, kind: str, model: str, base: str, secret: str, more: str, request: gr.Request
    ) -> tuple[Any, ...]:
        try:
            rest = json.loads(more or "{}")
            entry = {**rest, "type": kind, "model": model.strip()} | (
                {"api_base": base.strip()} if base.strip() else {}
            )
            studio.home(request).save_model(key.strip(), entry, secret)
        except ToolweaveError as error:
            return revision, gr.skip(), "", text("configure.probe_bad", text=str(error))
        except (ValueError, TypeError) as error:
            return revision, gr.skip(), secret, text("configure.not_json", why=str(error))
        # The key has gone to where it is kept, and leaves the page.
        return revision + 1, choices(request, key.strip()), "", text("configure.entry_saved", model=key)

    async def connect(name: str, request: gr.Request) -> AsyncIterator[str]:
        yield text("configure.testing", model=name)
        done = await anyio.to_thread.run_sync(probe, studio.home(request), name)
        found = "probe_ok" if done.ok else "probe_bad"
        yield text(f"configure.{found}", text=done.text, seconds=f"{done.seconds:.1f}")

    def forget(revision: int, name: str, request: gr.Request) -> tuple[Any, ...]:
        studio.home(request).delete_model(name)
        return revision + 1, choices(request), text("configure.entry_deleted", model=name)

    gr.on([studio.agent.change], choices, None, chosen, **_QUIET)
    chosen.change(edit, chosen, [*fields, result], **_QUIET)
    save.click(keep, [studio.revision, *fields], [studio.revision, chosen, secret, result], **_QUIET)
    test.click(connect, key, result, concurrency_limit=None, **_QUIET)
    remove.click(forget, [studio.revision, chosen], [studio.revision, chosen, result], **_QUIET)
