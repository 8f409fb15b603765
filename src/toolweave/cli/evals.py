"""Commands that prove: visits, and the demo of the whole loop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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


def register(app: typer.Typer) -> None:
    """Add the commands of this area."""
    app.command("visits")(visits)
    app.command("demo")(demo)
