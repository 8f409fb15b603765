"""The Studio's command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def studio(
    host: Annotated[
        str, typer.Option("--host", envvar="GRADIO_SERVER_NAME", help="Address to listen on.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", envvar="GRADIO_SERVER_PORT", min=0, max=65535, help="Port to listen on.")
    ] = 7860,
    workspace: Annotated[
        Path, typer.Option("--workspace", envvar="DEFAULT_AGENT_DIR", help="Folder of agents, traces and runs.")
    ] = Path("studio"),
) -> None:
    """Open the Studio: build agents, try them, review their visits, train and compare models.

    Example: toolweave studio --port 7860
    """
    try:
        from toolweave.studio.app import create_app
    except ModuleNotFoundError as error:
        from toolweave.errors import ToolweaveError

        raise ToolweaveError(f"the Studio needs {error.name}", "pip install 'toolweave[studio]'") from None
    import uvicorn

    from toolweave.studio.workspace import Workspace

    typer.echo(f"Studio: http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}/")  # noqa: S104
    uvicorn.run(create_app(Workspace(workspace)), host=host, port=port, log_level="warning")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("studio")(studio)
