"""Commands on traces: capture, list, show, review, forget, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Store = Annotated[Path, typer.Option("--store", help="File of the trace store.")]
_STORE = Path("traces.db")


def capture(
    upstream: Annotated[str, typer.Option("--upstream", help="Base URL of the model server.", show_default=False)],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on.")] = 8001,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    store: Store = _STORE,
) -> None:
    """Record an app's requests and replies: a proxy in front of any OpenAI-compatible server.

    Example: toolweave capture --upstream http://127.0.0.1:8000/v1 --port 8001
    """
    from toolweave.traces import capture as proxy
    from toolweave.traces.recorder import Recorder
    from toolweave.traces.store import TraceStore

    with TraceStore(store, create=True, patience=0.3) as opened:
        recorder = Recorder(opened)
        try:
            proxy.capture(upstream, recorder, host, port)
        finally:
            recorder.close()


def register(app: typer.Typer) -> None:
    """Add the commands of this area."""
    app.command("capture")(capture)
