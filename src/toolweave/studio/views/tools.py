"""The tools of an agent: parameters and keys, test calls from a form of the schema, and tools from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr

from toolweave.errors import ToolweaveError
from toolweave.studio import plugins
from toolweave.studio.cast import agent_tools
from toolweave.studio.pretend import key_name, lacks_key, pretend
from toolweave.tools.base import BaseTool
from toolweave.types import Json

if TYPE_CHECKING:
    from toolweave.studio.shell import Studio

_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_AUTH = ("bearer", "basic", "custom")


def build(studio: Studio) -> None:
    """Build the part of the form."""
    text = studio.text
    with gr.Accordion(text("configure.try"), open=False, elem_id="try"):
        chosen = gr.Dropdown([], label=text("configure.tool"), elem_id="tool")
        _bench(studio, chosen)
    with gr.Accordion(text("configure.openapi"), open=False, elem_id="openapi"):
        _openapi(studio)
    with gr.Accordion(text("configure.mcp"), open=False, elem_id="mcp"):
        _mcp(studio)

    def choices(agent: str, request: gr.Request) -> Any:
        try:
            names = [tool.name for tool in _tools(studio, agent, request)]
        except ToolweaveError as error:
            return gr.Dropdown(choices=[], value=None, info=f"⚠ {error}")
        return gr.Dropdown(choices=names, value=names[0] if names else None, info=None)

    gr.on([studio.agent.change, studio.revision.change], choices, studio.agent, chosen, **_QUIET)


def _tools(studio: Studio, agent: str, request: gr.Request) -> list[BaseTool]:
    if not agent:
        return []
    home = studio.home(request)
    return agent_tools(home, agent, home.agent(agent, studio.lang))


def _bench(studio: Studio, chosen: gr.Dropdown) -> None:
    """Build the form of the chosen tool, anew whenever another is chosen."""
    text = studio.text

    def form(agent: str, name: str | None, request: gr.Request) -> None:
        tool = next((tool for tool in _tools(studio, agent, request) if tool.name == name), None)
        if tool is None:
            return
        gr.Markdown(tool.description)
        variable = key_name(type(tool))
        if variable:
            _settings(studio, tool, variable)
        properties: Mapping[str, Any] = tool.spec().parameters.get("properties") or {}
        required = tool.spec().parameters.get("required") or ()
        inputs = [_field(field, schema or {}, field in required) for field, schema in properties.items()]
        if not inputs:
            gr.Markdown(text("configure.no_parameters"))
        go = gr.Button(text("configure.call"), variant="secondary", size="sm", elem_id="call")
        result = gr.Markdown(elem_id="call-result", sanitize_html=True)

        def call(agent: str, request: gr.Request, *values: Any) -> str:
            made = next(tool for tool in _tools(studio, agent, request) if tool.name == name)
            acting = pretend(made, studio.home(request).agent(agent).lang) if lacks_key(made) else made
            try:
                arguments = plugins.read_arguments(made.spec().parameters, dict(zip(properties, values, strict=True)))
            except ToolweaveError as error:
                return f"⚠ {error}"
            ok, said = plugins.test_call(acting, arguments)
            head = text("configure.call_done" if ok else "configure.call_failed")
            note = "" if acting is made else f" · {text('configure.call_simulated')}"
            return f"**{head}**{note}\n\n````text\n{said[:4000]}\n````"

        go.click(call, [studio.agent, *inputs], result, **_QUIET)

    gr.render(inputs=[studio.agent, chosen], triggers=[chosen.change], show_progress="hidden")(form)


def _settings(studio: Studio, tool: BaseTool, variable: str) -> None:
    text, name = studio.text, tool.name
    hint = "" if lacks_key(tool) else text("configure.entry_key_kept")
    secret = gr.Textbox(label=text("configure.tool_key", variable=variable), type="password", placeholder=hint)
    options = gr.Textbox(label=text("configure.tool_options"), value=_options(tool))
    save = gr.Button(text("configure.tool_save"), size="sm")
    said = gr.Markdown()

    def keep(agent: str, revision: int, secret: str, options: str, request: gr.Request) -> tuple[int, str, str]:
        home = studio.home(request)
        try:
            given = json.loads(options or "{}")
            if not isinstance(given, dict):
                raise ValueError("{…}")
        except ValueError as error:
            return revision, secret, text("configure.not_json", why=str(error))
        if secret:
            home.keep_key(f"tool:{name}", secret)
        spec = home.agent(agent, studio.lang)
        own: Json = dict(spec.builder.get("tools") or {})
        entry = {
            key: own[name][key] for key in ("name", "is_active", "use", "is_remote_tool") if key in own.get(name, {})
        }
        home.save_agent(agent, replace(spec, builder=spec.builder | {"tools": own | {name: entry | given}}))
        return revision + 1, "", text("configure.saved")

    save.click(keep, [studio.agent, studio.revision, secret, options], [studio.revision, secret, said], **_QUIET)


def _options(tool: BaseTool) -> str:
    shown = {key: value for key, value in tool.cfg.items() if key not in ("token", "api_key", "amap_api_key")}
    return json.dumps(shown, ensure_ascii=False) if shown else ""


def _field(name: str, schema: Mapping[str, Any], required: bool) -> Any:
    """Return the component of a parameter."""
    label, info = f"{name} *" if required else name, str(schema.get("description") or "") or None
    if schema.get("enum"):
        return gr.Dropdown(list(schema["enum"]), label=label, info=info)
    match schema.get("type"):
        case "boolean":
            return gr.Checkbox(label=label, info=info)
        case "integer":
            return gr.Number(label=label, info=info, precision=0, value=schema.get("default"))
        case "number":
            return gr.Number(label=label, info=info, value=schema.get("default"))
        case _:
            return gr.Textbox(label=label, info=info, value=str(schema.get("default") or ""))


def _openapi(studio: Studio) -> None:
    text = studio.text
    schema = gr.Textbox(label=text("configure.openapi_schema"), lines=5, max_lines=14, elem_id="openapi-schema")
    with gr.Row(equal_height=True):
        url = gr.Textbox(label=text("configure.openapi_url"), placeholder="https://…", scale=4)
        fetch = gr.Button(text("configure.openapi_fetch"), size="sm", scale=1, min_width=80, elem_classes="beside")
    with gr.Row():
        kind = gr.Radio(_AUTH, value="bearer", label=text("configure.openapi_auth"))
        secret = gr.Textbox(label=text("configure.entry_api_key"), type="password")
    go = gr.Button(text("configure.openapi_import"), variant="primary", size="sm", elem_id="openapi-import")
    result = gr.Markdown(elem_id="openapi-result")
    # The plugin that was last shown: the next agent's takes the place of what is typed only if it is another one.
    known = gr.State({})

    def show(agent: str, before: Json, request: gr.Request) -> tuple[Any, Any, Any]:
        plugin = studio.home(request).agent(agent).plugin if agent else {}
        if plugin == before:
            return gr.skip(), gr.skip(), gr.skip()
        given = plugin.get("schema") or ""
        shown = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False, indent=2)
        named = str((plugin.get("auth") or {}).get("apikey_type") or "").lower()
        return shown, named if named in _AUTH else "bearer", plugin

    def get(url: str) -> tuple[Any, str]:
        try:
            return plugins.fetch(url).decode("utf-8", "replace"), ""
        except ToolweaveError as error:
            return gr.skip(), f"⚠ {error}"

    def take(
        agent: str, revision: int, schema: str, kind: str, secret: str, request: gr.Request
    ) -> tuple[int, str, str]:
        try:
            imported = plugins.save_plugin(studio.home(request), agent, schema, secret, kind)
        except ToolweaveError as error:
            return revision, secret, f"⚠ {error}"
        if not schema.strip():
            return revision + 1, "", text("configure.openapi_gone")
        names = ", ".join(tool.name for tool in imported.tools)
        lines = [text("configure.openapi_done", count=len(imported.tools), names=names)]
        lines += [text("configure.openapi_skipped", why=why) for why in imported.skipped]
        return revision + 1, "", "\n\n".join(lines)

    gr.on([studio.agent.change, studio.revision.change], show, [studio.agent, known], [schema, kind, known], **_QUIET)
    fetch.click(get, url, [schema, result], **_QUIET)
    go.click(take, [studio.agent, studio.revision, schema, kind, secret], [studio.revision, secret, result], **_QUIET)


def _mcp(studio: Studio) -> None:
    text = studio.text
    with gr.Row():
        name = gr.Textbox(label=text("configure.mcp_name"), min_width=100, elem_id="mcp-name")
        url = gr.Textbox(
            label=text("configure.mcp_url"), placeholder="https://…/mcp", scale=2, min_width=160, elem_id="mcp-url"
        )
    secret = gr.Textbox(label=text("configure.mcp_key"), type="password")
    go = gr.Button(text("configure.mcp_add"), variant="primary", size="sm", elem_id="mcp-add")
    result = gr.Markdown(elem_id="mcp-result")

    def add(agent: str, revision: int, name: str, url: str, secret: str, request: gr.Request) -> tuple[int, str, str]:
        try:
            found = plugins.add_mcp(studio.home(request), agent, name, url, secret)
        except ToolweaveError as error:
            return revision, secret, f"⚠ {error}"
        names = ", ".join(tool.name for tool in found)
        return revision + 1, "", text("configure.openapi_done", count=len(found), names=names)

    go.click(add, [studio.agent, studio.revision, name, url, secret], [studio.revision, secret, result], **_QUIET)
