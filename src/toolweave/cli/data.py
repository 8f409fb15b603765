"""Commands on data sets."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolweave.data.strategy import Strategy
from toolweave.types import Lang

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


def data_check(
    sources: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Files, folders or hub ids.", show_default=False)
    ],
    from_: Format = None,
    dialect: DialectName = "v06",
    model: Annotated[
        str | None, typer.Option("--model", help="Also render with this model's chat template, and count tokens.")
    ] = None,
    max_length: Annotated[int, typer.Option("--max_length", help="Longest sample, in tokens; with --model.")] = 2048,
    strategy: Annotated[
        Strategy, typer.Option("--strategy", help="error exits with code 2 if anything is wrong.")
    ] = Strategy.WARNING,
    html: Annotated[Path | None, typer.Option("--html", help="Also write the report to this HTML file.")] = None,
) -> None:
    """Check every call against its own row's JSON Schema, and that every row can be learned from.

    Example: toolweave data check train.jsonl --model embedded --html report.html
    """
    from toolweave.data.check import check
    from toolweave.data.check_report import print_report, write_html
    from toolweave.errors import DataError

    report = check(sources, format=from_, dialect=dialect, model=model, max_length=max_length, strategy=strategy)
    print_report(report)
    if html is not None:
        write_html(report, html)
        typer.echo(f"{html}: the same with examples")
    if strategy is Strategy.ERROR and report.problems:
        raise DataError(f"{len(report.problems)} problems", "correct the rows, or leave them out with data convert")


def data_mix(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="Sources and shares.", show_default=False)],
    output_dir: Annotated[
        Path, typer.Option("--output_dir", help="Folder to write train.jsonl, test.jsonl and manifest.json to.")
    ] = Path("mixed"),
) -> None:
    """Mix data sets, add self-cognition, and hold a test part back.

    Example: toolweave data mix recipe.yaml --output_dir mixed
    """
    from toolweave.data.mix_recipe import MixRecipe, write_mix

    manifest = write_mix(MixRecipe.read(recipe), output_dir)
    for source in manifest["sources"]:
        typer.echo(
            f"{source['path']}: {source['used']} of {source['samples']} samples, {source['dropped']} rows left out"
        )
    parts = manifest["files"]
    typer.echo(
        f"{output_dir}: {parts['train.jsonl']['samples']} samples to train on, "
        f"{parts['test.jsonl']['samples']} to test, {manifest['self_cognition']} of them self-cognition"
    )


def data_synthesize(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="JSONL file to write.", show_default=False)],
    agent: Annotated[
        Path,
        typer.Option(
            "--agent",
            help="Agent folder or builder_config.json, OpenAPI document, MCP servers, or a list of tool schemas.",
            show_default=False,
        ),
    ],
    count: Annotated[int, typer.Option("--count", min=1, help="Visits; each gives one to four samples.")] = 500,
    lang: Annotated[Lang | None, typer.Option("--lang", help="Users' language, if not the agent's own.")] = None,
    dialect: DialectName = "v06",
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same rows, without a teacher.")] = 0,
    teacher_model: Annotated[
        str | None, typer.Option("--teacher-model", help="Let this model write the visits, instead of templates.")
    ] = None,
    teacher_api_base: Annotated[
        str | None, typer.Option("--teacher-api-base", help="Its OpenAI-compatible server; key in OPENAI_API_KEY.")
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Requests to the teacher at once.")] = 4,
) -> None:
    """Make training rows for your own agent out of its tool schemas, with a teacher model or without.

    Example: toolweave data synthesize --agent config/local_user samples.jsonl --count 1000
    """
    from rich.console import Console
    from rich.progress import Progress

    from toolweave.agents.tools_of import tools_of
    from toolweave.data.agent_rows import AgentRows, collect
    from toolweave.data.jsonl import sample_row, write_jsonl
    from toolweave.data.teacher import Teacher
    from toolweave.dialects import get_dialect
    from toolweave.errors import DataError
    from toolweave.models.client import ModelClient

    if teacher_api_base and not teacher_model:
        raise DataError("--teacher-api-base needs --teacher-model", "name the model at that server")
    tools, rendering, opened = tools_of(agent, lang), get_dialect(dialect), ExitStack()
    if teacher_model:
        model = ModelClient({"model": teacher_model, "api_base": teacher_api_base, "generate_cfg": {"temperature": 1}})
        opened.callback(model.close)
        source: AgentRows | Teacher = Teacher(model, tools, seed, concurrency)
    else:
        source = AgentRows(tools, seed)
    with opened, Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("visits", total=count)
        visits = collect(source.drafts(count), count, rendering, lambda: progress.advance(task))
    write_jsonl(target, map(sample_row, visits.samples))
    for reason, number in visits.dropped.most_common():
        typer.echo(f"left out: {number} drafts, {reason}", err=True)
    kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(visits.kinds.items()))
    typer.echo(
        f"{target}: {len(visits.samples)} samples of {visits.kinds.total()} visits to {len(tools.tools)} tools: {kinds}"
    )
    if visits.kinds.total() < count:
        typer.echo(
            f"only {visits.kinds.total()} of {count} visits: the tools' schemas give no more that differ", err=True
        )


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
    group = typer.Typer(help=f"Convert, check, mix and synthesise data sets. {_FORMATS_HELP}", no_args_is_help=True)
    group.command("convert")(data_convert)
    group.command("check")(data_check)
    group.command("mix")(data_mix)
    group.command("synthesize")(data_synthesize)
    group.command("push")(data_push)
    app.add_typer(group, name="data")
