"""Commands on data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolweave.data.strategy import Strategy

if TYPE_CHECKING:
    from toolweave.data.load import LoadReport

Format = Annotated[str | None, typer.Option("--from", help="Format of the rows; found out if not given.")]
DialectName = Annotated[str, typer.Option("--dialect", help="Prompt format to write: v06 or v07.")]
_FORMATS_HELP = (
    "Formats: samples, ms_agent, ms_agent_for_agentfabric, openai, sharegpt, hermes, swift, alpaca, api_bank, "
    "toolbench, bfcl; as JSON, JSON Lines, CSV, Parquet, Arrow, a folder, HF::owner/name or MS::owner/name."
)
_SHOWN = 20


def data_convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="File, folder or hub id to read.", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="JSONL file to write.", show_default=False)],
    from_: Format = None,
    dialect: DialectName = "v06",
    strategy: Annotated[
        Strategy, typer.Option("--strategy", help="What to do with bad rows: none checks nothing.")
    ] = Strategy.ERROR,
) -> None:
    """Convert a data set to samples: the requests that the app would have sent.

    Example: toolweave data convert --from ms_agent train_agent_react.jsonl samples.jsonl
    """
    from toolweave.data.convert import convert

    report = convert(source, target, from_=from_, dialect=dialect, strategy=strategy)
    _echo_dropped(report, strategy)
    typer.echo(f"{target}: {report.summary()}")


def data_push(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File or folder.", show_default=False)],
    repo: Annotated[str, typer.Argument(metavar="ID", help="HF::owner/name or MS::owner/name.", show_default=False)],
    public: Annotated[bool, typer.Option("--public", help="Let everybody read a data set created here.")] = False,
) -> None:
    """Push a file or folder to a data set on a hub, private unless told otherwise.

    Example: toolweave data push mixed HF::me/my-agent-data
    """
    from toolweave.data.hub import HubId, push
    from toolweave.errors import DataError

    hub_id = HubId.parse(repo)
    if hub_id is None:
        raise DataError(f"not a hub id: {repo}", "write HF::owner/name or MS::owner/name")
    typer.echo(push(path, hub_id, private=not public))


def _echo_dropped(report: LoadReport, strategy: Strategy) -> None:
    """Name each row left out, unless they are only to be counted."""
    for path in report.skipped:
        typer.echo(f"{path}: not read, it is another split", err=True)
    if strategy is Strategy.DISCARD:
        return
    for dropped in report.dropped[:_SHOWN]:
        typer.echo(f"{dropped.file}, line {dropped.line}: left out: {dropped.reason}", err=True)
    if len(report.dropped) > _SHOWN:
        typer.echo(f"… and {len(report.dropped) - _SHOWN} more: see toolweave data check --html", err=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this area."""
    group = typer.Typer(help=f"Convert, check and mix data sets. {_FORMATS_HELP}", no_args_is_help=True)
    group.command("convert")(data_convert)
    group.command("push")(data_push)
    app.add_typer(group, name="data")
