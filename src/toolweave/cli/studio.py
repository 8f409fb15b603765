"""The Studio's command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolweave.errors import ToolweaveError

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
    auth: Annotated[
        list[str] | None,
        typer.Option(
            "--auth", envvar="TOOLWEAVE_STUDIO_AUTH", help="User who may sign in, as name:password; repeatable."
        ),
    ] = None,
) -> None:
    """Open the Studio: build agents, try them, review their visits, train and compare models.

    Example: toolweave studio --port 7860 --auth ann:secret
    """
    try:
        import gradio  # noqa: F401
    except ModuleNotFoundError:
        raise ToolweaveError("the Studio needs the extra `studio`", "pip install 'toolweave[studio]'") from None
    import uvicorn

    from toolweave.studio.app import create_app
    from toolweave.studio.guard import Users
    from toolweave.studio.workspace import Workspace

    local = host in _LOOPBACK
    if not local and not auth:
        typer.echo(
            f"warning: anybody who reaches {host}:{port} can use this Studio and its keys; "
            "--auth name:password asks who they are",
            err=True,
        )
    # A page of another site may have a name of its own that leads here.
    hosts = _LOOPBACK if local else ()
    app = create_app(Workspace(workspace), Users.read(auth or []), hosts)
    typer.echo(f"Studio: http://{host if local else '127.0.0.1'}:{port}/")
    uvicorn.run(app, host=host, port=port, log_level="warning")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("studio")(studio)
