"""The tools of an agent, whatever file describes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolweave.agents.spec import AgentSpec, FileKind, load_agent
from toolweave.data.agent_rows import AgentTools
from toolweave.data.schemas import read_tools
from toolweave.dialects.agentfabric import contains_chinese
from toolweave.errors import DataError
from toolweave.tools.base import BaseTool
from toolweave.tools.mcp import McpServer, read_servers
from toolweave.tools.openapi import import_openapi, read_document
from toolweave.types import Json, Lang, Role, ToolSpec

_KINDS = "an agent's folder or builder_config.json, an OpenAPI document, {mcpServers: …}, or a list of tool schemas"


def tools_of(path: Path, lang: Lang | None = None) -> AgentTools:
    """Return the tools and the instruction of what a file or folder describes; `lang` overrides the agent's own.

    A folder, or a file in one, is an AgentFabric agent; a document with `paths` is OpenAPI; `mcpServers` names MCP
    servers, which are asked (a local file may name programs); `{name, description, instruction, language, tools}` or a
    bare list holds OpenAI or MCP tool schemas. Where no language is named, it is that of the tools' descriptions.
    Raises DataError for anything else, ToolweaveError for what cannot be reached.
    """
    if path.is_dir():
        return _of_agent(load_agent(path), lang)
    try:
        text = path.read_text("utf-8-sig")
        content = json.loads(text) if text.lstrip().startswith("[") else read_document(text)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}", f"name {_KINDS}") from error
    if isinstance(content, list):
        listed = read_tools(content)
        return AgentTools(listed, lang=lang or _language(listed))
    if isinstance(content.get("paths"), Mapping):
        # Only the schemas are wanted: nothing is sent to the server, which may be left out.
        return _of_tools(import_openapi(content, base_url=_server(content)).tools, lang)
    if "mcpServers" in content:
        return _of_servers(content, lang)
    if isinstance(content.get("tools"), list):
        schemas = [{"input_schema": tool.get("inputSchema"), **tool} for tool in content["tools"]]
        listed = read_tools(schemas)
        given = Lang(content["language"]) if content.get("language") in list(Lang) else _language(listed)
        return AgentTools(listed, _role(content), lang or given)
    if isinstance(content.get("tools"), Mapping):
        if path.name == FileKind.BUILDER.file_name:
            return _of_agent(load_agent(path.parent), lang)
        return _of_agent(AgentSpec.of({FileKind.BUILDER: content}, path.parent), lang)
    raise DataError(f"{path} describes no tools", f"name {_KINDS}")


def _of_agent(spec: AgentSpec, lang: Lang | None) -> AgentTools:
    # No model is asked, so it does not matter here what is wrong with the agent's.
    spec = replace(spec, builder={**spec.builder, "model": ""}, models={})
    made = _of_tools(spec.function_list(), lang)
    role = Role(name=spec.name, description=spec.description, instruction=spec.instruction)
    return AgentTools(made.tools, role, lang or spec.lang, made.results)


def _of_tools(tools: Iterable[BaseTool], lang: Lang | None) -> AgentTools:
    made = list(tools)
    results = {tool.name: schema for tool in made if (schema := tool.result_schema())}
    specs = tuple(tool.spec() for tool in made)
    return AgentTools(specs, lang=lang or _language(specs), results=results)


def _of_servers(content: Mapping[str, Any], lang: Lang | None) -> AgentTools:
    tools: list[BaseTool] = []
    for server in read_servers(content, allow_stdio=True).values():
        with McpServer(server) as connected:
            tools += connected.tools
    return _of_tools(tools, lang)


def _role(content: Json) -> str | Role:
    if not content.get("name"):
        return str(content.get("instruction") or "")
    instruction = content.get("instruction") or ""
    return Role(name=content["name"], description=content.get("description") or "", instruction=instruction)


def _language(tools: Iterable[ToolSpec]) -> Lang:
    return Lang.ZH if any(contains_chinese(tool.description) for tool in tools) else Lang.EN


def _server(document: Json) -> str:
    return "" if document.get("servers") or document.get("host") else "http://localhost"
