"""Commands on data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


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


def register(app: typer.Typer) -> None:
    """Add the commands of this area."""
    group = typer.Typer(help="Convert and check data sets.", no_args_is_help=True)
    group.command("convert")(data_convert)
    app.add_typer(group, name="data")
