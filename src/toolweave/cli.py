"""The command line: a table of commands, each a thin call of the Python API.

Errors a user can mend end on stderr with exit code 2, an interruption with 130. Heavy modules are
imported inside the commands, so that `--help` answers at once. Options are spelled as SWIFT spells them.
"""

from __future__ import annotations

import errno
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from toolweave.errors import ToolweaveError
from toolweave.training.recipe import Recipe


def _group(about: str) -> typer.Typer:
    return typer.Typer(help=about, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


app = _group("Weave tool calling into a small model, serve it, and prove it.")
data_app = _group("Convert and check data sets.")
app.add_typer(data_app, name="data")

_INTERRUPTED = 130
_GO_ON = "interrupted: run the same command again to go on"
CkptDir = Annotated[Path, typer.Option("--ckpt_dir", help="Folder of the checkpoint.", show_default=False)]
OutputDir = Annotated[Path, typer.Option("--output_dir", help="Folder to write to.", show_default=False)]


@data_app.command("convert")
def data_convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="JSONL file to read.", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="JSONL file to write.", show_default=False)],
    from_: Annotated[str, typer.Option("--from", help="Format of IN.")] = "ms_agent",
    dialect: Annotated[str, typer.Option("--dialect", help="Prompt format to write: v06 or v07.")] = "v06",
    strict: Annotated[
        bool, typer.Option("--strict/--no-strict", help="Stop at the first bad row, or leave bad rows out.")
    ] = True,
) -> None:
    """Convert a data set to samples: the requests that the app would have sent.

    Example: toolweave data convert --from ms_agent train_agent_react.jsonl samples.jsonl
    """
    from toolweave.data.convert import convert

    report = convert(source, target, from_=from_, dialect=dialect, strict=strict)
    for dropped in report.dropped:
        typer.echo(f"{source}, line {dropped.line}: left out: {dropped.reason}", err=True)
    typer.echo(
        f"{target}: {report.samples} samples with {report.calls} calls and {report.turns} turns, "
        f"from {report.episodes} of {report.rows} rows, {len(report.dropped)} left out"
    )


def _with_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each field of `Recipe`, with its type and default."""
    hints = get_type_hints(Recipe)
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[hints[field.name], typer.Option(f"--{field.name}", rich_help_panel="Recipe")],
        )
        for field in fields(Recipe)
    ]
    setattr(command, "__signature__", inspect.Signature([*own, *options]))  # noqa: B010  # unknown to the type
    command.__annotations__ = {p.name: p.annotation for p in (*own, *options)}
    return command


@app.command("sft")
@_with_recipe
def sft(
    *,
    dataset: Annotated[
        list[Path], typer.Option("--dataset", metavar="FILE...", help="Sample files (JSONL).", show_default=False)
    ],
    model: Annotated[str, typer.Option("--model", help="Folder, GGUF file, hub id, or embedded.")] = "embedded",
    output_dir: OutputDir,
    **recipe: Any,
) -> None:
    """Fine-tune a LoRA adapter on samples.

    Example: toolweave sft --dataset samples.jsonl --model embedded --output_dir output/sft
    """
    checked = Recipe(**recipe)

    from toolweave.data.jsonl import read_samples
    from toolweave.models.base_models import load
    from toolweave.training.sft import train

    samples = [sample for path in dataset for sample in read_samples(path)]
    base = str(Path(model).resolve()) if Path(model).exists() else model
    result = train(load(model), samples, output_dir, checked, base)
    typer.echo(
        f"{result.adapter}: {result.steps} steps on {result.samples} samples ({result.dropped} too long) "
        f"in {result.seconds:.0f} s, loss {result.train_loss:.3f}, evaluation {result.eval_loss:.3f}"
    )


@app.command("export")
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


@app.command("deploy")
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


@app.command("visits")
def visits(
    model: Annotated[str, typer.Option("--model", help="Folder, GGUF file, hub id, or embedded.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", help="File to write results to (JSONL).")] = Path("visits.jsonl"),
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Run about so many; all if not given.")] = None,
) -> None:
    """Serve a model, run the held-out visits on it, and count the right ones.

    Example: toolweave visits --model output/demo/sft/adapter-merged --output visits.jsonl
    """
    from rich.console import Console

    from toolweave.demo import visit_model
    from toolweave.evals.report import print_visits

    print_visits(visit_model(model, output, limit), Console())


@app.command("demo")
def demo(
    model: Annotated[str, typer.Option("--model", help="Folder, GGUF file, hub id, or embedded.")] = "embedded",
    output: Annotated[Path, typer.Option("--output", help="Folder to write to.")] = Path("output/demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, reuse no finished step.")] = False,
    visits: Annotated[int, typer.Option("--visits", min=1, help="How many held-out visits to run.")] = 60,
) -> None:
    """Run the whole loop: visits before, data, fine-tune, merge, serve, visits after, report.

    Example: toolweave demo --model embedded --output output/demo
    """
    from toolweave.demo import run_demo

    run_demo(model, output, fresh, visits)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; `arguments` default to the process's own. Always raises SystemExit."""
    try:
        app(_spread(list(sys.argv[1:] if arguments is None else arguments)), prog_name="toolweave")
    except ToolweaveError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(f"no space left on the disk: {error.filename or error}\n  hint: free some space and run it again")
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            typer.echo(_GO_ON, err=True)
        raise


def _fail(message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    raise SystemExit(2)


def _spread(arguments: list[str]) -> list[str]:
    """Turn SWIFT's `--dataset a b` into `--dataset a --dataset b`."""
    spread: list[str] = []
    listing = False
    for argument in arguments:
        if argument.startswith("--"):
            listing = argument == "--dataset"
        elif listing and spread[-1] != "--dataset":
            spread.append("--dataset")
        spread.append(argument)
    return spread
