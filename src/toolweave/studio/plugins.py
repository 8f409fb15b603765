"""Tools from elsewhere: the OpenAPI plugin and the MCP servers of an agent, their keys kept apart from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx

from toolweave.agents.spec import AgentSpec
from toolweave.errors import DataError, ToolError, ToolweaveError
from toolweave.studio.workspace import Home
from toolweave.tools.base import BaseTool
from toolweave.tools.mcp import Http, read_servers
from toolweave.tools.net import send
from toolweave.tools.openapi import Imported, import_openapi
from toolweave.types import Json

MCP = "mcp"
"""Where `builder_config` keeps an agent's MCP servers, as the usual `{"mcpServers": …}`."""


def fetch(url: str) -> bytes:
    """Return what is at a URL. Raises ToolweaveError, also for an address that must not be reached."""
    try:
        answer = send("GET", url.strip())
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        # httpx's texts hold the URL, and that may hold a key.
        raise DataError(f"the address cannot be reached: {type(error).__name__}", "check it") from None
    if answer.status >= 400:
        raise DataError(f"the address answered HTTP {answer.status}", "check it")
    return answer.content


def save_plugin(home: Home, agent: str, schema: str, key: str, kind: str) -> Imported:
    """Make a document the agent's plugin; an empty one takes the plugin away. Raises DataError.

    `kind` is AgentFabric's `apikey_type`: `bearer`, `basic` or `custom`. An empty key leaves the one that is kept.
    """
    spec = home.agent(agent)
    imported = import_openapi(schema) if schema.strip() else Imported((), ())
    name = f"plugin:{agent}"
    if key or not schema.strip():
        home.keep_key(name, key)
    auth = {"type": "API Key" if home.key(name) else "None", "apikey": "", "apikey_type": kind}
    plugin = {**spec.plugin, "schema": schema, "auth": auth} if schema.strip() else {}
    home.save_agent(agent, replace(spec, plugin=plugin))
    return imported


def plugin_with_key(home: Home, agent: str, spec: AgentSpec) -> AgentSpec:
    """Return the agent with the user's key for its plugin."""
    key = home.key(f"plugin:{agent}")
    if not key or not spec.plugin.get("schema"):
        return spec
    auth = {**(spec.plugin.get("auth") or {}), "type": "API Key", "apikey": key}
    return replace(spec, plugin=spec.plugin | {"auth": auth})


def add_mcp(home: Home, agent: str, name: str, url: str, authorization: str = "") -> Sequence[BaseTool]:
    """Connect an MCP server to an agent and return its tools. Raises ToolweaveError where it cannot be reached.

    `authorization` is the header of this name, and kept apart from the agent.
    """
    if not name.strip() or not url.strip().startswith(("http://", "https://")):
        raise ToolweaveError("an MCP server needs a name and an http address", "a program cannot be started from here")
    spec = home.agent(agent)
    if authorization:
        home.keep_key(f"mcp:{url}", authorization)
    tools = home.mcp_tools(name, _server(home, url))
    servers = {**((spec.builder.get(MCP) or {}).get("mcpServers") or {}), name: {"url": url}}
    home.save_agent(agent, replace(spec, builder=spec.builder | {MCP: {"mcpServers": servers}}))
    return tools


def mcp_tools(home: Home, spec: AgentSpec) -> list[BaseTool]:
    """Return the tools of all MCP servers of an agent. Raises ToolweaveError for one that cannot be reached."""
    config = spec.builder.get(MCP)
    servers = read_servers(config) if isinstance(config, Mapping) else {}
    found: list[BaseTool] = []
    for name, server in servers.items():
        if isinstance(server, Http):
            found += home.mcp_tools(name, _server(home, server.url))
    return found


def _server(home: Home, url: str) -> Http:
    key = home.key(f"mcp:{url}")
    return Http(url, {"Authorization": key} if key else {})


def test_call(tool: BaseTool, arguments: Mapping[str, Any]) -> tuple[bool, str]:
    """Call a tool once; return whether it did what it should, and what it answered."""
    try:
        return True, str(tool.call(json.dumps(arguments, ensure_ascii=False)))
    except ToolError as error:
        return False, str(error)
    except Exception as error:  # a tool is foreign code
        return False, f"{type(error).__name__}: {error}"


def read_arguments(schema: Json, values: Mapping[str, Any]) -> Json:
    """Return a form's values as the arguments of a schema; empty ones are left out. Raises DataError for bad JSON."""
    properties: Mapping[str, Any] = schema.get("properties") or {}
    arguments: Json = {}
    for name, value in values.items():
        kind = (properties.get(name) or {}).get("type", "string")
        if value in (None, ""):
            continue
        if kind in ("object", "array") and isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError as error:
                raise DataError(f"{name} is not JSON: {error}") from None
        arguments[name] = int(value) if kind == "integer" else value
    return arguments
