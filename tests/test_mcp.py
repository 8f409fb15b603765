"""Tools of MCP servers: a real server process, over stdio and over HTTP."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolweave.errors import ToolError, ToolweaveError
from toolweave.tools.base import Effect
from toolweave.tools.mcp import Http, McpServer, Stdio, read_servers

SERVER = str(Path(__file__).parent / "mcp_server.py")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with subprocess.Popen([sys.executable, SERVER, str(port)], stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                assert process.poll() is None
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


def test_a_program_over_stdio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASHSCOPE_API_KEY", "secret")
    with McpServer(Stdio(sys.executable, (SERVER,)), prefix="s_", timeout=60) as server:
        tools = {tool.name: tool for tool in server.tools}
        assert list(tools) == ["s_add", "s_fail", "s_slow", "s_environment"]
        assert tools["s_add"].description == "Add two numbers."
        assert tools["s_add"].effect is Effect.WRITE
        assert tools["s_add"].call('{"a": 1, "b": 2}') == "3"
        assert "DASHSCOPE_API_KEY" not in tools["s_environment"].call("{}")
        with pytest.raises(ToolError, match="fail"):
            tools["s_fail"].call('{"reason": "x"}')
        with pytest.raises(ToolError, match="'b' is a required property"):
            tools["s_add"].call('{"a": 1}')
    with pytest.raises(ToolError, match="is closed"):
        tools["s_add"].call('{"a": 1, "b": 2}')


def test_a_server_over_http(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLWEAVE_ALLOW_HOSTS", "127.0.0.1")
    with McpServer(Http(url, {"Authorization": "Bearer k"}), timeout=1.5) as server:
        add, _, slow, _ = server.tools
        assert add.call('{"a": 20, "b": 22}') == "42"
        with pytest.raises(ToolError, match="failed"):
            slow.call("{}")


def test_a_private_address_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOOLWEAVE_ALLOW_HOSTS", raising=False)
    with pytest.raises(ToolweaveError, match="not a public address"), McpServer(Http(url)):
        pass


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(ToolweaveError, match="cannot reach the MCP server /nowhere"), McpServer(Stdio("/nowhere")):
        pass


def test_only_the_local_user_configures_programs() -> None:
    config = {"mcpServers": {"a": {"url": "https://a.example/mcp"}, "b": {"command": "x", "args": ["y"]}}}
    with pytest.raises(ToolweaveError, match="'b' would start a program"):
        read_servers(config)
    servers = read_servers(config, allow_stdio=True)
    assert servers == {"a": Http("https://a.example/mcp"), "b": Stdio("x", ("y",))}
    with pytest.raises(ToolweaveError, match="neither url nor command"):
        read_servers({"mcpServers": {"c": {}}})
