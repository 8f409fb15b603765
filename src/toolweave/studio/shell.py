"""The frame around the views: brand, the agent that is worked on, tabs; and what every view is given.

A view is a module with one function, `build(studio)`. It is called inside the tab that is its own, once for each
language, and makes its components and their events there. It keeps no state of its own: what a browser works on is in
`studio.agent`, what lies on the disk is reached by `studio.home(request)`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from importlib import resources
from typing import Any

import gradio as gr

from toolweave.agents.spec import LOCAL_USER
from toolweave.studio.text import say
from toolweave.studio.views import compare, configure, create, preview, publish, traces, train
from toolweave.studio.workspace import Home, Workspace
from toolweave.types import Lang


@dataclass(frozen=True)
class Studio:
    """What a view is given.

    `agent` is the drop-down of the header: its value is the key of the current agent, as an input of events a `str`;
    its `change` event fires when another agent is chosen, and once when the page has loaded. `revision` counts the
    changes of the current agent's files: add 1 as an output after saving, listen to its `change` to show them.
    `browser` is kept by the browser and survives a reload: `{"agent": key, "session": id}`.
    """

    workspace: Workspace
    lang: Lang
    blocks: gr.Blocks
    agent: gr.Dropdown
    revision: gr.State
    browser: gr.BrowserState

    def text(self, key: str, **values: object) -> str:
        """Return a string of the interface by its key, `{file of texts}.{name}`."""
        return say(key, self.lang, **values)

    def home(self, request: gr.Request) -> Home:
        """Return the home of the user who asks; take `request: gr.Request` as a parameter of the event's function."""
        user = request.username or LOCAL_USER
        return self.workspace.visitor(user.removeprefix(VISITOR))[0] if _visits(user) else self.workspace.home(user)

    def user(self, request: gr.Request) -> str:
        """Return the name of the user who asks."""
        return request.username or LOCAL_USER

    def session(self, kept: dict[str, str] | None, request: gr.Request) -> str:
        """Return the id of the browser's session, given the value of `browser`; without one, that of the page."""
        return str((kept or {}).get("session") or request.session_hash)


VISITOR = "share:"
"""What the name of a visitor of a shared agent begins with; the key of the agent follows. No user has such a name."""


def _visits(user: str) -> bool:
    return user.startswith(VISITOR)


View = Callable[[Studio], None]


@dataclass(frozen=True, slots=True)
class Tab:
    """A tab by the key of its title, and what builds it."""

    title: str
    build: View


# Beside the preview, and beside the whole of "Build".
BUILDING = (
    Tab("shell.create", create.build),
    Tab("shell.configure", configure.build),
    Tab("shell.publish", publish.build),
)
AREAS = (Tab("shell.traces", traces.build), Tab("shell.train", train.build), Tab("shell.compare", compare.build))


def blocks(workspace: Workspace, lang: Lang) -> gr.Blocks:
    """Return the Studio's page in one language."""
    page = gr.Blocks(title=say("shell.title", lang), analytics_enabled=False, fill_width=True)
    with page:
        kept = {"agent": "", "session": ""}
        browser = gr.BrowserState(kept, storage_key="toolweave-studio", secret="-")  # noqa: S106  # nothing in it is
        revision = gr.State(0)
        with gr.Row(elem_id="header", equal_height=True):
            gr.HTML(_brand(lang), elem_id="brand")
            agent = gr.Dropdown([], label=say("shell.agent", lang), show_label=False, container=False, elem_id="agent")
            new = gr.Button(say("shell.new", lang), size="sm", scale=0, min_width=80, elem_id="new-agent")
            delete = gr.Button(say("shell.delete", lang), size="sm", scale=0, min_width=80, elem_id="delete-agent")
            links = gr.HTML(_links(lang), elem_id="links")
        studio = Studio(workspace, lang, page, agent, revision, browser)
        with gr.Tabs(elem_id="areas"):
            with gr.Tab(say("shell.build", lang)), gr.Row(elem_id="build"):
                with gr.Column(scale=5, min_width=340, elem_id="builder"), gr.Tabs(elem_id="building"):
                    for tab in BUILDING:
                        with gr.Tab(studio.text(tab.title)):
                            tab.build(studio)
                with gr.Column(scale=6, min_width=340, elem_id="preview"):
                    preview.build(studio)
            for tab in AREAS:
                with gr.Tab(studio.text(tab.title)):
                    tab.build(studio)
        _connect(studio, new, delete)

        def signed_in(request: gr.Request) -> Any:
            user = studio.user(request)
            return gr.skip() if user == LOCAL_USER else _links(lang, user)

        page.load(signed_in, None, links, show_progress="hidden", api_visibility="private")
    return page


def share_page(workspace: Workspace, lang: Lang) -> gr.Blocks:
    """Return the page of a shared agent, which is that of its visitor's key, in one language."""
    page = gr.Blocks(title=say("shell.title", lang), analytics_enabled=False, fill_width=True)
    with page:
        browser = gr.BrowserState({"agent": "", "session": ""}, storage_key="toolweave-share", secret="-")  # noqa: S106
        agent = gr.Dropdown([], visible=False)
        studio = Studio(workspace, lang, page, agent, gr.State(0), browser)
        with gr.Column(elem_id="preview", elem_classes="shared"):
            preview.build(studio)

        def load(kept: dict[str, str] | None, request: gr.Request) -> tuple[gr.Dropdown, dict[str, str]]:
            _, key = workspace.visitor((request.username or "").removeprefix(VISITOR))
            session = (kept or {}).get("session") or secrets.token_hex(8)
            return gr.Dropdown(choices=[key], value=key), {"agent": key, "session": session}

        page.load(load, browser, [agent, browser], show_progress="hidden", api_visibility="private")
    return page


def _connect(studio: Studio, new: gr.Button, delete: gr.Button) -> None:
    agent, browser = studio.agent, studio.browser

    def chosen(home: Home, wanted: str) -> gr.Dropdown:
        names = home.agents(studio.lang)
        choices = [(name or studio.text("shell.untitled"), key) for key, name in names.items()]
        return gr.Dropdown(choices=choices, value=wanted if wanted in names else next(iter(names)))

    def load(kept: dict[str, str], request: gr.Request) -> tuple[gr.Dropdown, dict[str, str]]:
        kept = {"agent": "", "session": "", **(kept or {})}
        kept["session"] = kept["session"] or secrets.token_hex(8)
        return chosen(studio.home(request), kept["agent"]), kept

    def keep(key: str, kept: dict[str, str]) -> dict[str, str]:
        return {**(kept or {}), "agent": key}

    def create_agent(request: gr.Request) -> gr.Dropdown:
        home = studio.home(request)
        return chosen(home, home.new_agent(studio.lang))

    def delete_agent(key: str, request: gr.Request) -> gr.Dropdown:
        home = studio.home(request)
        home.delete_agent(key)
        return chosen(home, "")

    def renamed(key: str, request: gr.Request) -> gr.Dropdown:
        return chosen(studio.home(request), key)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    studio.blocks.load(load, browser, [agent, browser], **quiet)
    agent.change(keep, [agent, browser], browser, **quiet)
    studio.revision.change(renamed, agent, agent, **quiet)
    new.click(create_agent, None, agent, **quiet)
    delete.click(delete_agent, agent, agent, **quiet, js=_CONFIRM % say("shell.delete_confirm", studio.lang))


# Deleting takes a question; Gradio runs the event with what the function returns, and not at all when it throws.
_CONFIRM = "(key) => { if (!window.confirm(%r)) { throw new Error('kept'); } return key; }"


_WEAVE = '<path d="M4 10h24M4 16h24M4 22h24"/><path d="M10 4v24M16 4v24M22 4v24"/>'


def brand_icon() -> str:
    """Return the icon as SVG."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -8 48 48">'
        '<rect x="-8" y="-8" width="48" height="48" rx="12" '
        f'fill="#0f766e"/><g stroke="#fff" stroke-width="2.6" stroke-linecap="round" fill="none">{_WEAVE}</g></svg>'
    )


def _brand(lang: Lang) -> str:
    return (
        f'<div class="brand"><svg viewBox="0 0 32 32" aria-hidden="true">{_WEAVE}</svg><div>'
        f"<h1>{say('shell.title', lang)}</h1><p>{say('shell.tagline', lang)}</p></div></div>"
    )


def _links(lang: Lang, user: str = "") -> str:
    """Return the links of the header; a user who has signed in can sign out."""
    other = Lang.EN if lang is Lang.ZH else Lang.ZH
    leave = (
        f'<form method="post" action="/logout"><button id="sign-out" title="{escape(user)}">'
        f"{say('shell.sign_out', lang)}</button></form>"
    )
    return (
        f'<nav class="links"><a href="/{other.value}/" hreflang="{other.value}" id="language">'
        f'{say("shell.other_language", lang)}</a><button type="button" id="theme" '
        f'aria-label="{say("shell.theme", lang)}" title="{say("shell.theme", lang)}" '
        "onclick=\"localStorage.setItem('toolweave-dark', Number(document.body.classList.toggle('dark')))\">"
        f"◐</button>{leave if user else ''}</nav>"
    )


def theme() -> gr.themes.Base:
    """Return the look: no font or file from elsewhere, and colours that can be read."""
    sans = ["system-ui", "-apple-system", "Segoe UI", "PingFang SC", "Microsoft YaHei", "sans-serif"]
    mono = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"]
    return gr.themes.Base(
        primary_hue="teal", secondary_hue="teal", neutral_hue="slate", radius_size="lg", font=sans, font_mono=mono
    ).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_border_width="1px",
        block_shadow="none",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_title_text_weight="600",
        input_border_width="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_background_fill="white",
        input_background_fill_dark="*neutral_900",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        checkbox_background_color_selected="*primary_700",
        checkbox_background_color_selected_dark="*primary_600",
        color_accent="*primary_700",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
    )


def style() -> str:
    """Return the style sheets of the page as one."""
    files = [path for path in (resources.files("toolweave.studio") / "static").iterdir() if path.name.endswith(".css")]
    return "\n".join(path.read_text("utf-8") for path in sorted(files, key=lambda path: path.name))


def head() -> str:
    """Return what the page's head needs: the script that names what Gradio leaves without a name."""
    script = (resources.files("toolweave.studio") / "static" / "studio.js").read_text("utf-8")
    return f"<script>{script}</script>"
