"""Tools of MCP servers, over stdio or streamable HTTP. Needs the extra `mcp`.

A server over stdio is a program that is started here, so only code of the local user can name one; a server over
HTTP is reached through the guard of `toolweave.tools.net`. Servers get none of our environment beyond the few
variables that any program needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from toolweave.errors import ToolError, ToolweaveError
from toolweave.tools.base import Effect
from toolweave.tools.net import Policy, pinned_url
from toolweave.tools.openapi.schema import json_schema
from toolweave.tools.simulate import SpecTool
from toolweave.types import Json, ToolSpec

if TYPE_CHECKING:
    import httpx2
    from mcp import Client
    from mcp_types import CallToolResult, Tool

_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_OUTPUT = 4_000
_MAX_PAGES = 50


@dataclass(frozen=True, slots=True)
class Stdio:
    """A server that is a program: `env` is all it gets beside what any program needs."""

    command: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Http:
    """A server at a URL; `headers` may carry a key, and are sent nowhere else."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def read_servers(config: Mapping[str, Any], *, allow_stdio: bool = False) -> dict[str, Stdio | Http]:
    """Read the usual `{"mcpServers": {name: {"command", "args", "env"} | {"url", "headers"}}}`.

    Raises ToolweaveError for an entry of neither kind, and for programs unless the caller vouches that the local
    user wrote the configuration (`allow_stdio`).
    """
    servers: dict[str, Stdio | Http] = {}
    for name, entry in (config.get("mcpServers") or {}).items():
        if isinstance(entry, Mapping) and entry.get("url"):
            servers[name] = Http(str(entry["url"]), dict(entry.get("headers") or {}))
        elif isinstance(entry, Mapping) and entry.get("command"):
            if not allow_stdio:
                hint = "only the local user can configure programs; use the server's URL"
                raise ToolweaveError(f"MCP server {name!r} would start a program, which is not allowed here", hint)
            args = tuple(map(str, entry.get("args") or ()))
            servers[name] = Stdio(str(entry["command"]), args, dict(entry.get("env") or {}))
        else:
            raise ToolweaveError(f"MCP server {name!r} has neither url nor command")
    return servers


class McpServer(AbstractContextManager["McpServer"]):
    """A connection to a server, for as long as a `with` block; `tools` are its tools.

    `prefix` goes before each tool's name, which keeps two servers apart. `timeout` is for each request, in seconds.
    Raises ToolweaveError on entering where the server cannot be reached.
    """

    tools: Sequence[McpTool]

    def __init__(self, server: Stdio | Http, *, prefix: str = "", timeout: float = 30.0) -> None:
        self._server = server
        self._prefix = prefix
        self._timeout = timeout
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None
        self._client: Client | None = None
        self.tools = ()

    def __enter__(self) -> McpServer:
        try:
            import mcp  # noqa: F401
        except ImportError:
            raise ToolweaveError("MCP needs the extra `mcp`", "pip install 'toolweave[mcp]'") from None
        try:
            self._portal = self._stack.enter_context(start_blocking_portal())
            self._client = self._stack.enter_context(self._portal.wrap_async_context_manager(self._connect()))
            self.tools = self._make_tools(self._portal.call(_list, self._client))
        except BaseException as error:
            self._stack.close()
            if isinstance(error, ToolweaveError) or not isinstance(error, Exception):
                raise
            raise ToolweaveError(f"cannot reach the MCP server {self._label}: {_cause(error)}") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._portal = self._client = None
        self._stack.close()

    def call(self, name: str, arguments: Json) -> str:
        """Call a tool by the server's own name for it. Raises ToolError."""
        if self._portal is None or self._client is None:
            raise ToolError(f"the MCP server {self._label} is closed")
        try:
            result = self._portal.call(self._client.call_tool, name, arguments, self._timeout)
        except Exception as error:
            raise ToolError(f"the MCP server {self._label} failed: {_cause(error)}") from None
        text = _text(result)
        if result.is_error:
            raise ToolError(text or f"{name} failed")
        return text or "(nothing)"

    @property
    def _label(self) -> str:
        return self._server.command if isinstance(self._server, Stdio) else self._server.url

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Client]:
        from mcp import Client, StdioServerParameters
        from mcp.client.streamable_http import streamable_http_client

        server = self._server
        if isinstance(server, Stdio):
            program = StdioServerParameters(command=server.command, args=list(server.args), env=dict(server.env))
            async with Client(program, read_timeout_seconds=self._timeout) as client:
                yield client
        else:
            async with guarded_client(Policy.from_env(), server.headers, self._timeout) as http_client:
                transport = streamable_http_client(server.url, http_client=http_client)
                async with Client(transport, read_timeout_seconds=self._timeout) as client:
                    yield client

    def _make_tools(self, tools: Sequence[Tool]) -> list[McpTool]:
        made: dict[str, McpTool] = {}
        for tool in tools:
            name = _UNFIT.sub("_", f"{self._prefix}{tool.name}")[:64]
            while name in made:
                name = f"{name[:63]}_"
            made[name] = McpTool(self, name, tool)
        return list(made.values())


class McpTool(SpecTool):
    """A tool of a server."""

    def __init__(self, server: McpServer, name: str, tool: Tool) -> None:
        given = dict(tool.input_schema or {})
        schema = {"type": "object", "properties": {}} | json_schema(given, given)
        description = " ".join((tool.description or tool.title or "").split())
        super().__init__(ToolSpec(name, description, schema))
        self._output = dict(tool.output_schema) if tool.output_schema else None
        hints = tool.annotations
        # Hints are the server's word: they can make us more careful, and side by side at most.
        if hints is not None and hints.read_only_hint:
            self.effect = Effect.READ
        else:
            self.effect = Effect.DANGEROUS if hints is not None and hints.destructive_hint else Effect.WRITE
        self._server = server
        self._remote_name = tool.name

    def result_schema(self) -> Json | None:
        """Return the schema of structured results, if the server gives one."""
        return self._output and json_schema(self._output, self._output)

    def call(self, params: str, **kwargs: Any) -> str:
        """Return the text of the result. Raises ToolError when the server says so, is too slow or is gone."""
        return self._server.call(self._remote_name, self._verify_args(params))


def guarded_client(policy: Policy, headers: Mapping[str, str], timeout: float) -> httpx2.AsyncClient:
    """Return a client that only connects to addresses which `policy` allows."""
    import anyio.to_thread
    import httpx2

    class Guarded(httpx2.AsyncBaseTransport):
        """See `toolweave.tools.net.GuardedTransport`."""

        def __init__(self) -> None:
            self._inner = httpx2.AsyncHTTPTransport()

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            url = request.url
            try:
                address = await anyio.to_thread.run_sync(pinned_url, policy, url.scheme, url.host, url.port)
            except OSError as error:
                raise httpx2.ConnectError(f"{url.host} does not resolve", request=request) from error
            pinned = httpx2.Request(
                request.method,
                url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": url.host},
            )
            return await self._inner.handle_async_request(pinned)

        async def aclose(self) -> None:
            await self._inner.aclose()

    # An answer may be a stream that stays open, hence no limit on reading: each call has its own.
    patience = httpx2.Timeout(timeout, read=None)
    return httpx2.AsyncClient(transport=Guarded(), headers=dict(headers), timeout=patience, trust_env=False)


async def _list(client: Client) -> list[Tool]:
    tools: list[Tool] = []
    cursor: str | None = None
    for _ in range(_MAX_PAGES):
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if not cursor:
            break
    return tools


def _text(result: CallToolResult) -> str:
    """Return the content as text; what is not text is named."""
    parts = [
        block.text if block.type == "text" else f"[{block.type} {getattr(block, 'mime_type', None) or ''}]".strip()
        for block in result.content
    ]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    text = "\n".join(parts)
    return text if len(text) <= _MAX_OUTPUT else text[:_MAX_OUTPUT] + "…"


def _cause(error: BaseException) -> str:
    """Return what lies at the bottom of an exception group: what went wrong, in one line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    first_line = str(error).strip().splitlines()[:1]
    return " ".join([f"{type(error).__name__}:", *first_line]) if first_line else type(error).__name__
