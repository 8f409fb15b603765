"""Commands that train."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolweave.training.recipe import ALIASES, PARTS, Flag, Metric, Recipe, flags, read_config, takes_list

if TYPE_CHECKING:
    from toolweave.models.template import ChatTemplate
    from toolweave.training.distributed import Workers
    from toolweave.training.sft import Judge, TrainResult
    from toolweave.training.sources import Sources

_PANELS = {part: (kind.__doc__ or part).strip().rstrip(".") for part, kind in PARTS.items()}


def _with_recipe(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each field of the recipe; `Recipe.of` reads and checks their values."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = [
        inspect.Parameter(flag.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(flag))
        for flag in flags()
    ]
    setattr(command, "__signature__", inspect.Signature([*own, *options]))  # noqa: B010  # unknown to the type
    command.__annotations__ = {p.name: p.annotation for p in (*own, *options)}
    return command


def _option(flag: Flag) -> Any:
    names = [f"--{flag.name}", *(f"--{alias}" for alias, name in ALIASES.items() if name == flag.name)]
    default = flag.field.default
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    if isinstance(default, bool):
        shown = shown.lower()
    option = typer.Option(
        *names,
        help=flag.field.description,
        metavar="WORDS" if takes_list(flag.name) else _metavar(flag),
        show_default=shown if default not in (None, ()) else False,
        rich_help_panel=_PANELS[flag.part],
    )
    kind = list[str] | None if takes_list(flag.name) else str | None
    return Annotated[kind, option]


def _metavar(flag: Flag) -> str:
    kind = flag.field.annotation
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return "|".join(kind)
    text = str(kind)
    return next((name for key, name in _KINDS.items() if key in text), "TEXT")


_KINDS = {"bool": "true|false", "int": "INTEGER", "float": "NUMBER", "Path": "FOLDER"}


@_with_recipe
def sft(
    *,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="YAML recipe; flags given beside it win.")
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Show rows with their labels coloured and write audit.html; train nothing.")
    ] = False,
    audit_rows: Annotated[int, typer.Option("--audit_rows", min=1, help="How many rows --audit shows.")] = 8,
    **choices: Any,
) -> None:
    """Fine-tune a LoRA adapter on samples.

    Example: toolweave sft --dataset samples.jsonl --model embedded --output_dir output
    """
    given = {name: value for name, value in choices.items() if value not in (None, [])}
    recipe = Recipe.of(**{**(read_config(config) if config else {}), **given})

    import torch

    from toolweave.models.dtypes import named_dtype
    from toolweave.training.memory import fill_holes

    dtype = named_dtype(recipe.base.dtype)
    if dtype is torch.float32:
        fill_holes()  # before the imports below, which make the first tensors

    from toolweave.models.base_models import load
    from toolweave.training import layout
    from toolweave.training.distributed import joined
    from toolweave.training.sft import base_name, train
    from toolweave.training.sources import gather

    base = base_name(recipe.base)
    with joined() as workers:
        run = Path(workers.agree(layout.choose_run(recipe.run, recipe.base.model) if workers.is_first else None))
        with workers.first_goes_first():
            sources = gather(recipe.data, recipe.optim.seed)
            loaded = load(base, dtype)
        if audit:
            _audit(recipe, sources, loaded.template, audit_rows)
            return
        judge = _visits_judge(recipe) if recipe.run.metric_for_best_model is Metric.VISITS else None
        result = train(
            loaded, sources.train, run, recipe, base,
            validation=sources.validation, unread=sources.dropped, workers=workers, judge=judge,
        )  # fmt: skip
        _report(result, workers)


def _report(result: TrainResult, workers: Workers) -> None:
    if not workers.is_first:
        return
    typer.echo(
        f"{result.steps} steps on {result.samples} samples ({result.dropped} dropped) in {result.seconds:.0f} s, "
        f"loss {result.train_loss:.3f}, evaluation {result.eval_loss:.3f}"
    )
    for line in (
        f"best_model_checkpoint: {result.adapter}",
        f"images_dir: {result.images}",
        f"End time of running main: {datetime.now()}",
    ):
        typer.echo(f"[INFO:toolweave] {line}")


def _audit(recipe: Recipe, sources: Sources, template: ChatTemplate, count: int) -> None:
    from rich.console import Console

    from toolweave.training.audit import choose, print_audit, write_audit
    from toolweave.training.rows import prepare

    rows = prepare(sources.train, template, recipe.data.max_length, recipe.data.check_dataset_strategy)
    rows = replace(rows, dropped=(*sources.dropped, *rows.dropped))
    chosen = choose(rows, count, recipe.optim.seed)
    page = recipe.run.output_dir / "audit.html"
    print_audit(chosen, rows, template, Console(soft_wrap=True))
    write_audit(chosen, rows, template, page)
    typer.echo(f"the same as a page: {page}")


def _visits_judge(recipe: Recipe) -> Judge:
    """Return a judge that merges an adapter, serves it, and counts the selection visits it does right."""
    from toolweave.evals.cases import selection_visits

    chosen = selection_visits(recipe.run.metric_visits)

    def judge(adapter: Path) -> float:
        from tempfile import TemporaryDirectory

        from toolweave.demo import visit_model
        from toolweave.weights.merge import merge

        with TemporaryDirectory(prefix="toolweave-visits-") as folder:
            merged = merge(adapter, Path(folder) / "merged")
            results = visit_model(str(merged), Path(folder) / "visits.jsonl", chosen)
        return sum(result.ok for result in results) / len(results)

    return judge


def register(app: typer.Typer) -> None:
    """Add the commands of this area."""
    app.command("sft")(sft)
