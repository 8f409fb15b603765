"""Publish: the archive, a page for others, and the agent as an OpenAI-compatible endpoint; and import."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import gradio as gr

from toolweave.errors import ToolweaveError
from toolweave.studio.plugins import fetch
from toolweave.studio.sharing import Share

if TYPE_CHECKING:
    from toolweave.studio.shell import Studio

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_CURL = """curl {base}/chat/completions -H 'Content-Type: application/json' -H 'Authorization: Bearer {key}' \\
  -d '{{"model": "{agent}", "stream": true, "messages": [{{"role": "user", "content": {question}}}]}}'"""


def build(studio: Studio) -> None:
    """Build the view."""
    text = studio.text
    with gr.Group(elem_classes="card"):
        gr.Markdown(f"### {text('publish.zip')}\n{text('publish.zip_info')}")
        archive = gr.HTML(elem_id="archive")
    with gr.Group(elem_classes="card"):
        gr.Markdown(f"### {text('publish.import')}\n{text('publish.import_info')}")
        file = gr.File(label=text("publish.import_file"), file_types=[".zip"], height=110, elem_id="import-file")
        with gr.Row(equal_height=True):
            url = gr.Textbox(label=text("publish.import_url"), placeholder="https://…/agent.zip", scale=4)
            go = gr.Button(text("publish.import_go"), size="sm", scale=1, min_width=80, elem_classes="beside")
        imported = gr.Markdown(elem_id="imported")
    with gr.Group(elem_classes="card"):
        gr.Markdown(f"### {text('publish.share')}\n{text('publish.share_info')}")
        link = gr.HTML(elem_id="share-link")
        with gr.Row():
            on = gr.Button(text("publish.share_on"), size="sm", variant="primary", elem_id="share-on")
            off = gr.Button(text("publish.share_off"), size="sm", elem_id="share-off")
    with gr.Group(elem_classes="card"):
        gr.Markdown(f"### {text('publish.api')}\n{text('publish.api_info')}")
        curl = gr.Code(language=None, show_label=False, interactive=False, elem_id="curl", wrap_lines=True)

    def show(agent: str, request: gr.Request) -> tuple[Any, Any, Any]:
        if not agent:
            return gr.skip(), gr.skip(), gr.skip()
        spec = studio.home(request).agent(agent, studio.lang)
        key = studio.workspace.shares.key_of(Share(studio.user(request), agent))
        name = escape(spec.name or studio.text("shell.untitled"))
        button = (
            f'<a class="button" href="/agents/{agent}/archive.zip" download>{text("publish.zip_get", name=name)}</a>'
        )
        address = f"{_origin(request)}/share/{key}"
        link_html = (
            f'<a href="{address}" target="_blank" rel="noopener">{address}</a>' if key else text("publish.share_none")
        )
        # In the shell it stands between single quotes.
        question = json.dumps(next(iter(spec.suggestions), "Hello").replace("'", "’"), ensure_ascii=False)
        base = f"{_origin(request)}/agents/{agent}/v1"
        return (
            button,
            f"<p>{link_html}</p>",
            _CURL.format(base=base, key=key or "EMPTY", agent=agent, question=question),
        )

    def share(agent: str, request: gr.Request) -> tuple[Any, Any, Any]:
        studio.workspace.shares.add(Share(studio.user(request), agent))
        return show(agent, request)

    def unshare(agent: str, request: gr.Request) -> tuple[Any, Any, Any]:
        studio.workspace.shares.remove(Share(studio.user(request), agent))
        return show(agent, request)

    def take(path: str | None, url: str, revision: int, request: gr.Request) -> tuple[Any, Any, Any, Any, Any]:
        home = studio.home(request)
        try:
            with TemporaryDirectory() as folder:
                if path is None:
                    Path(folder, "agent.zip").write_bytes(fetch(url))
                key = home.import_agent(Path(path or Path(folder, "agent.zip")))
        except ToolweaveError as error:
            return gr.skip(), revision, f"⚠ {error}", None, url
        spec = home.agent(key, studio.lang)
        notes = "".join(f"\n\n⚠ {problem}" for problem in spec.problems())
        names = [(name or text("shell.untitled"), each) for each, name in home.agents(studio.lang).items()]
        chosen = gr.Dropdown(choices=names, value=key)
        return chosen, revision + 1, text("publish.imported", name=spec.name) + notes, None, ""

    shown = [archive, link, curl]
    gr.on([studio.agent.change, studio.revision.change], show, studio.agent, shown, **_QUIET)
    on.click(share, studio.agent, shown, **_QUIET)
    off.click(unshare, studio.agent, shown, **_QUIET)
    gr.on(
        [file.upload, go.click],
        take, [file, url, studio.revision], [studio.agent, studio.revision, imported, file, url], **_QUIET,
    )  # fmt: skip


def _origin(request: gr.Request) -> str:
    """Return where the browser found the Studio."""
    return f"{request.url.scheme}://{request.headers['host']}"
