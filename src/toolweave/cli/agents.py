"""Commands on agents: check AgentFabric's files, pack and unpack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the agent.", show_default=False)]
_Zip = Annotated[Path, typer.Argument(metavar="ZIP", help="The archive.", show_default=False)]


def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="JSON files to check.", show_default=False)],
    roundtrip: Annotated[
        Path | None, typer.Option("--roundtrip", metavar="DIR", help="Write the files again, unchanged, into DIR.")
    ] = None,
) -> None:
    """Load AgentFabric's JSON files and say by name what cannot be used.

    Example: toolweave agents check --roundtrip /tmp/again config/builder_config.json config/model_config.json
    """
    from toolweave.agents.check import check_file, round_trip

    for file in files:
        report = check_file(file)
        typer.echo(f"{file}: {report.kind}: {report.summary}")
        for problem in report.problems:
            typer.echo(f"  warning: {problem}")
        if roundtrip is not None:
            typer.echo(f"  unchanged: {round_trip(report, roundtrip)}")


def export(folder: _Folder, archive: _Zip) -> None:
    """Pack an agent as AgentFabric's zip; keys stay out of it.

    Example: toolweave agents export /tmp/agentfabric/config/local_user weather.zip
    """
    from toolweave.agents.archive import export_agent
    from toolweave.agents.spec import load_agent

    export_agent(load_agent(folder), archive)
    typer.echo(f"archive: {archive}")


def import_(archive: _Zip, folder: _Folder) -> None:
    """Unpack an agent from AgentFabric's zip into a new folder.

    Example: toolweave agents import weather.zip /tmp/agentfabric/config/weather
    """
    from toolweave.agents.archive import import_agent

    spec = import_agent(archive, folder)
    typer.echo(f"agent {spec.name!r}: {folder}")
    for problem in spec.problems():
        typer.echo(f"  warning: {problem}")


def register(app: typer.Typer) -> None:
    """Add the commands of this area."""
    group = typer.Typer(help="Check, pack and unpack agents.", no_args_is_help=True)
    group.command("check")(check)
    group.command("export")(export)
    group.command("import")(import_)
    app.add_typer(group, name="agents")
