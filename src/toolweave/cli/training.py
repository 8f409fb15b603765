"""Commands that train."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from toolweave.cli.options import OutputDir
from toolweave.training.recipe import Recipe


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


def register(app: typer.Typer) -> None:
    """Add the commands of this area."""
    app.command("sft")(sft)
