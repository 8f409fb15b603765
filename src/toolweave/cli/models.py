"""Commands on trained models: merge and serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolweave.cli.options import CkptDir
from toolweave.errors import ToolweaveError


def export(
    ckpt_dir: CkptDir,
    merge_lora: Annotated[
        str, typer.Option("--merge_lora", metavar="true", help="Merge the adapter into its base model.")
    ] = "true",
    output_dir: Annotated[
        Path | None, typer.Option("--output_dir", help="Folder to write; CKPT_DIR-merged if not given.")
    ] = None,
) -> None:
    """Merge an adapter into its base model and save safetensors.

    Example: toolweave export --ckpt_dir output/sft/adapter --merge_lora true
    """
    if merge_lora.lower() != "true":
        raise ToolweaveError(f"--merge_lora {merge_lora} leaves nothing to export", "say --merge_lora true")

    from toolweave.weights.merge import merge

    typer.echo(f"merged model: {merge(ckpt_dir, output_dir)}")


def deploy(
    ckpt_dir: CkptDir,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on.")] = 8000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    served_model_name: Annotated[
        str | None, typer.Option("--served_model_name", help="Model name to answer to; the folder's if not given.")
    ] = None,
) -> None:
    """Serve a model over the OpenAI API until interrupted.

    Example: toolweave deploy --ckpt_dir output/sft/adapter-merged --port 8000
    """
    from toolweave.serving import deploy as serve

    serve(ckpt_dir, host=host, port=port, served_model_name=served_model_name)


def register(app: typer.Typer) -> None:
    """Add the commands of this area."""
    app.command("export")(export)
    app.command("deploy")(deploy)
