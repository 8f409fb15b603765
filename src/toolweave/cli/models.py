"""Commands on trained models: average, export, parity and deploy."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from toolweave.cli.options import CkptDir, OutputDir
from toolweave.errors import ToolweaveError

_KEY_VARIABLE = "TOOLWEAVE_API_KEY"


class EngineName(StrEnum):
    """What runs the model."""

    EMBEDDED = "embedded"
    VLLM = "vllm"


def average(
    ckpt_dir: Annotated[
        list[Path], typer.Option("--ckpt_dir", help="Folder of an adapter; once for each.", show_default=False)
    ],
    output_dir: OutputDir,
) -> None:
    """Write the mean of adapters as one adapter, at times better than each: train them from one base on own data.

    Example: toolweave average --ckpt_dir output/a/checkpoint-40 --ckpt_dir output/b/checkpoint-40 --output_dir mean
    """
    from toolweave.weights.average import average as mean

    typer.echo(f"mean of {len(ckpt_dir)} adapters: {mean(ckpt_dir, output_dir)}")


def export(
    ckpt_dir: CkptDir,
    merge_lora: Annotated[
        str, typer.Option("--merge_lora", metavar="true", help="Merge the adapter into its base model.")
    ] = "true",
    output_dir: Annotated[
        Path | None, typer.Option("--output_dir", help="Folder to write; CKPT_DIR-merged if not given.")
    ] = None,
    gguf: Annotated[
        list[str] | None, typer.Option("--gguf", help="Also write GGUF and a Modelfile: f32, f16 or q8_0; repeatable.")
    ] = None,
    parity: Annotated[
        bool, typer.Option("--parity", help="Stop unless adapter, merged model, server and GGUF reply alike.")
    ] = False,
    push_to: Annotated[
        str | None, typer.Option("--push_to", help="Hub repository to upload to: hf:NAME or modelscope:NAME.")
    ] = None,
) -> None:
    """Merge an adapter into its base model and save safetensors, with a model card; GGUF if asked for.

    Example: toolweave export --ckpt_dir output/smollm2/v0-20261124-061500/checkpoint-40 --merge_lora true --gguf q8_0
    """
    adapter = (ckpt_dir / "adapter_config.json").is_file()
    if merge_lora.lower() != "true" and (adapter or not gguf):
        raise ToolweaveError(f"--merge_lora {merge_lora} leaves nothing to export", "say --merge_lora true")
    hub, _, repository = (push_to or "").partition(":")
    if push_to and (hub not in ("hf", "modelscope") or not repository):
        raise ToolweaveError(f"--push_to {push_to} names no hub", "say hf:user/model or modelscope:user/model")
    kinds = gguf or []
    if unknown := [kind for kind in kinds if kind not in ("f32", "f16", "q8_0")]:
        raise ToolweaveError(f"--gguf {unknown[0]} is not known", "say f32, f16 or q8_0")

    from toolweave.weights import export as exports
    from toolweave.weights.gguf import GgufType

    done = exports.export(ckpt_dir, output_dir, [GgufType(kind) for kind in kinds])
    typer.echo(f"merged model: {done.folder}")
    for path in done.files:
        typer.echo(f"  {path}")
    if parity:
        exact = [path for path in done.files if path.name.endswith("-f32.gguf")]
        _check_parity(done.folder, ckpt_dir if adapter else None, exact, [], 50)
    if push_to:
        typer.echo(f"uploaded to {exports.push(done.folder, repository, exports.Hub(hub))}")


def parity(
    ckpt_dir: CkptDir,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="Adapter folder that was merged.")] = None,
    gguf: Annotated[list[Path] | None, typer.Option("--gguf", help="GGUF file of the same model; repeatable.")] = None,
    api_base: Annotated[
        list[str] | None, typer.Option("--api_base", help="Server of the same model, such as vLLM; repeatable.")
    ] = None,
    requests: Annotated[int, typer.Option("--requests", min=1, help="How many visit requests to compare.")] = 50,
) -> None:
    """Check that every form of a model gives the same greedy replies; exit code 2 shows the first that differs.

    Example: toolweave parity --ckpt_dir output/sft/checkpoint-40-merged --adapter output/sft/checkpoint-40
    """
    _check_parity(ckpt_dir, adapter, gguf or [], api_base or [], requests)


def _check_parity(folder: Path, adapter: Path | None, gguf: list[Path], api_bases: list[str], count: int) -> None:
    from toolweave.serving.parity import run_parity

    agreements = []
    for agreement in run_parity(folder, adapter=adapter, gguf=gguf, api_bases=api_bases, count=count):
        same = agreement.requests - len(agreement.differences)
        typer.echo(f"{agreement.form}: {same} of {agreement.requests} replies are the same, token for token")
        agreements.append(agreement)
    for agreement in agreements:
        agreement.check()


def deploy(
    context: typer.Context,
    ckpt_dir: CkptDir,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on.")] = 8000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    served_model_name: Annotated[
        str | None, typer.Option("--served_model_name", help="Model name to answer to; the folder's if not given.")
    ] = None,
    engine: Annotated[EngineName, typer.Option("--engine", help="What runs the model.")] = EngineName.EMBEDDED,
    dialect: Annotated[
        str | None, typer.Option("--dialect", help="Prompt format for requests with tools; the tuned one if not given.")
    ] = None,
    guided_calls: Annotated[
        bool,
        typer.Option(
            "--guided_calls/--free_calls", help="Let calls only be valid ones, or any, unless a request says otherwise."
        ),
    ] = True,
    max_queue: Annotated[int, typer.Option("--max_queue", min=0, help="Requests that may wait; more get 429.")] = 256,
    request_seconds: Annotated[float, typer.Option("--request_seconds", help="Time a request may take.")] = 600,
    api_key: Annotated[
        str | None, typer.Option("--api_key", help=f"Key to ask clients for; {_KEY_VARIABLE} keeps it out of `ps`.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option("--allow_origin", help="Web page that may ask (CORS); repeatable.")
    ] = None,
    end_with_stdin: Annotated[
        bool, typer.Option("--end_with_stdin", help="Stop when standard input closes, so with what started this.")
    ] = False,
) -> None:
    """Serve a model over the OpenAI API until interrupted. With vLLM, what follows -- goes to it as it is.

    Example: toolweave deploy --ckpt_dir output/sft/checkpoint-40-merged --port 8000
    """
    if end_with_stdin:
        from toolweave.serving.process import end_with_stdin as watch_stdin

        watch_stdin()
    key = api_key or os.environ.get(_KEY_VARIABLE)
    if engine is EngineName.VLLM:
        from toolweave.serving.vllm import deploy as serve_vllm

        raise SystemExit(serve_vllm(ckpt_dir, host, port, served_model_name, api_key=key, flags=context.args))
    if context.args:
        raise ToolweaveError(f"unknown option {context.args[0]}", "only --engine vllm passes options on")

    from toolweave.serving.gatekeeper import Limits
    from toolweave.serving.server import deploy as serve

    limits = Limits(
        max_queue=max_queue, request_seconds=request_seconds, api_key=key, allowed_origins=tuple(allow_origin or ())
    )
    serve(
        ckpt_dir,
        host=host,
        port=port,
        served_model_name=served_model_name,
        dialect=dialect,
        guided_calls=guided_calls,
        limits=limits,
    )


def register(app: typer.Typer) -> None:
    """Add the commands of this area."""
    app.command("average")(average)
    app.command("export")(export)
    app.command("parity")(parity)
    app.command("deploy", context_settings={"allow_extra_args": True, "ignore_unknown_options": False})(deploy)
