"""A small MCP server: `mcp_server.py` speaks over stdio, `mcp_server.py PORT` over streamable HTTP."""

from __future__ import annotations

import logging
import os
import sys
import time

from mcp.server.mcpserver import MCPServer

server = MCPServer("small")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
def fail(reason: str) -> str:
    """Fail."""
    raise ValueError(reason)


@server.tool()
def slow() -> str:
    """Take long."""
    time.sleep(3)
    return "late"


@server.tool()
def environment() -> str:
    """Say which variables are set."""
    return " ".join(sorted(os.environ))


if __name__ == "__main__":
    logging.disable()
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run()
