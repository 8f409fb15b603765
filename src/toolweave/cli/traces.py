"""Commands on traces: capture them, look at them, flag, review, export and forget them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer

from toolweave.errors import DataError

if TYPE_CHECKING:
    from rich.console import Console

    from toolweave.traces.redaction import Redactor
    from toolweave.traces.store import TraceStore
    from toolweave.traces.trace import Filter, Verdict

_STORE = Path("traces.db")
_SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}

Store = Annotated[Path, typer.Option("--store", help="File of the trace store.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Traces or visits.", show_default=False)]
OneId = Annotated[str, typer.Argument(metavar="ID", help="Trace; the beginning of its id will do.", show_default=False)]
Agent = Annotated[str | None, typer.Option("--agent", help="Only this agent, as listed.")]
Model = Annotated[str | None, typer.Option("--model", help="Only this model.")]
Tool = Annotated[str | None, typer.Option("--tool", help="Only agents with this tool.")]
Rule = Annotated[str | None, typer.Option("--rule", help="Only what this rule flagged; * for any.")]
VerdictName = Annotated[
    str | None, typer.Option("--verdict", help="Only unreviewed, accepted, rejected or corrected.", show_default=False)
]
Since = Annotated[str | None, typer.Option("--since", metavar="AGE", help="Only the last 12h, 7d or 2w.")]
Text = Annotated[str | None, typer.Option("--text", help="Only with this text in request or reply.")]
Reviewer = Annotated[
    str, typer.Option("--reviewer", envvar=["TOOLWEAVE_REVIEWER", "USER"], help="Who says so.", show_default=False)
]


def capture(
    upstream: Annotated[str, typer.Option("--upstream", help="Base URL of the model server.", show_default=False)],
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on.")] = 8001,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    store: Store = _STORE,
    redact: Annotated[
        str, typer.Option("--redact", help="What is made unrecognisable, with commas; none keeps all but keys.")
    ] = "id_number,phone,email",
    redact_file: Annotated[
        Path | None,
        typer.Option(
            "--redact_file", help="YAML instead: `redact` (a list), `patterns` (name: regex).", show_default=False
        ),
    ] = None,
    keep: Annotated[
        str | None, typer.Option("--keep", metavar="AGE", help="Forget what is older, such as 30d.", show_default=False)
    ] = None,
) -> None:
    """Record an app's requests and replies: a proxy in front of any OpenAI-compatible server.

    Example: toolweave capture --upstream http://127.0.0.1:8000/v1 --port 8001
    """
    import logging

    from toolweave.traces import capture as proxy
    from toolweave.traces.recorder import Recorder
    from toolweave.traces.store import TraceStore

    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    kept = _age(keep) if keep else None
    with TraceStore(store, _redactor(redact, redact_file), create=True, patience=proxy.LOCK_SECONDS) as opened:
        recorder = Recorder(opened)
        try:
            proxy.capture(upstream, recorder, host, port, keep=kept)
        finally:
            recorder.close()


def list_(
    store: Store = _STORE,
    agent: Agent = None,
    model: Model = None,
    tool: Tool = None,
    rule: Rule = None,
    verdict: VerdictName = None,
    since: Since = None,
    text: Text = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many visits.")] = 30,
) -> None:
    """List visits, the newest first, and count what was captured.

    Example: toolweave traces list --rule contradiction --since 7d
    """
    from toolweave.traces.views import print_counts, print_visits

    wanted = _filter(agent=agent, model=model, tool=tool, rule=rule, verdict=verdict, since=since, text=text)
    with _flagged(store) as opened:
        print_visits(opened.visits(wanted, limit), _console())
        print_counts(opened.counts(wanted), _console())


def show(visit: OneId, store: Store = _STORE) -> None:
    """Show the timeline of a visit, by its id or that of one of its traces.

    Example: toolweave traces show v3f9a
    """
    from toolweave.traces.views import print_visit

    with _flagged(store) as opened:
        print_visit(opened.visit(visit), _console())


def review(
    store: Store = _STORE,
    agent: Agent = None,
    model: Model = None,
    tool: Tool = None,
    rule: Rule = None,
    since: Since = None,
    reviewer: Reviewer = "unknown",
) -> None:
    """Review traces one by one, flagged ones first: accept, reject, or edit the reply.

    Keys may also be piped in. Example: toolweave traces review --rule no_call
    """
    from toolweave.traces.review import review as walk

    tty = sys.stdin.isatty()
    with _flagged(store) as opened:
        given = walk(
            opened,
            _filter(agent=agent, model=model, tool=tool, rule=rule, since=since),
            reviewer,
            _console(),
            typer.getchar if tty else _piped_key,
            _edit,
        )
    typer.echo(", ".join(f"{count} {verdict}" for verdict, count in given.items()) or "no verdicts")


def accept(ids: Ids = None, store: Store = _STORE, reviewer: Reviewer = "unknown") -> None:
    """Accept traces, or all traces of visits.

    Example: toolweave traces accept v3f9a
    """
    from toolweave.traces.trace import Verdict

    _judge_all(ids, store, Verdict.ACCEPTED, reviewer)


def reject(ids: Ids = None, store: Store = _STORE, reviewer: Reviewer = "unknown") -> None:
    """Reject traces, or all traces of visits.

    Example: toolweave traces reject t3f9a81c2d4e0
    """
    from toolweave.traces.trace import Verdict

    _judge_all(ids, store, Verdict.REJECTED, reviewer)


def correct(
    trace: OneId,
    reply: Annotated[str, typer.Option("--reply", help="What it should have said; - reads it.", show_default=False)],
    store: Store = _STORE,
    reviewer: Reviewer = "unknown",
) -> None:
    """Correct the reply of a trace; the corrected reply becomes the label.

    Example: toolweave traces correct t3f9a81c2d4e0 --reply "朝阳区今天晴，12度。"
    """
    from toolweave.traces.store import TraceStore
    from toolweave.traces.trace import Verdict

    with TraceStore(store) as opened:
        label = sys.stdin.read() if reply == "-" else reply
        typer.echo(f"corrected {opened.review(trace, Verdict.CORRECTED, reviewer, label).id}")


def flag(
    store: Store = _STORE,
    judge: Annotated[
        str | None, typer.Option("--judge", metavar="URL", help="API of a model that judges too.", show_default=False)
    ] = None,
    judge_model: Annotated[str, typer.Option("--judge_model", help="Name of that model.")] = "judge",
    agent: Agent = None,
    since: Since = None,
) -> None:
    """Run the rules, and a judge model if one is given (its key is OPENAI_API_KEY).

    Example: toolweave traces flag --judge https://dashscope.aliyuncs.com/compatible-mode/v1 --judge_model qwen-max
    """
    from toolweave.models.client import ModelClient
    from toolweave.traces.curate import judge as ask
    from toolweave.traces.views import print_counts

    with _flagged(store) as opened:
        if judge:
            client = ModelClient({"model": judge_model, "api_base": judge})
            asked = ask(opened, client, _filter(agent=agent, since=since), lambda count: _progress("judged", count))
            typer.echo(f"judged {asked.replies}, {asked.flags} flagged, {asked.unjudged} without a readable verdict")
        print_counts(opened.counts(_filter(agent=agent, since=since)), _console())


def export(
    target: Annotated[Path, typer.Argument(metavar="OUT", help="JSONL file to write.", show_default=False)],
    store: Store = _STORE,
    agent: Agent = None,
    model: Model = None,
    tool: Tool = None,
    since: Since = None,
    clean: Annotated[bool, typer.Option("--clean", help="Also what nobody reviewed and no rule flagged.")] = False,
    near: Annotated[float, typer.Option("--near", help="Rows this similar are one.")] = 0.9,
    max_per_tool: Annotated[int | None, typer.Option("--max_per_tool", min=1, help="Rows of one tool.")] = None,
    max_per_rule: Annotated[int | None, typer.Option("--max_per_rule", min=1, help="Rows mending one failure.")] = None,
    held_out: Annotated[
        list[Path] | None, typer.Option("--held_out", help="More evaluation queries: rows, or one a line.")
    ] = None,
    drop_held_out: Annotated[
        bool, typer.Option("--drop_held_out", help="Leave rows out that evaluation asks, rather than fail.")
    ] = False,
) -> None:
    """Export reviewed traces as training rows: the request as sent, the reply it should have got.

    Example: toolweave traces export addition.jsonl --clean --max_per_tool 200
    """
    from toolweave.traces.contamination import held_out_queries
    from toolweave.traces.export import Selection
    from toolweave.traces.export import export as write

    wanted = _filter(agent=agent, model=model, tool=tool, since=since)
    with _flagged(store) as opened:
        selection = Selection(clean, near, max_per_tool, max_per_rule)
        queries = held_out_queries(held_out or ())
        report = write(opened, target, queries, selection, wanted, drop_held_out=drop_held_out)
    for reason, count in sorted(report.left_out.items()):
        typer.echo(f"left out {count}: {reason}", err=True)
    tools = ", ".join(f"{tool} {count}" for tool, count in report.by_tool.items())
    typer.echo(f"{target}: {report.rows} samples" + (f" ({tools})" if tools else ""))


def thumb(
    trace: OneId,
    down: Annotated[bool, typer.Option("--down/--up", help="What the user of the app thought.")] = True,
    store: Store = _STORE,
) -> None:
    """Note a user's thumb on a reply.

    Example: toolweave traces thumb t3f9a81c2d4e0 --down
    """
    from toolweave.traces.store import TraceStore
    from toolweave.traces.trace import FeedbackKind

    with TraceStore(store) as opened:
        opened.give_feedback(trace, FeedbackKind.THUMBS_DOWN if down else FeedbackKind.THUMBS_UP)


def forget(
    ids: Ids = None,
    store: Store = _STORE,
    older_than: Annotated[
        str | None, typer.Option("--older_than", metavar="AGE", help="Such as 30d.", show_default=False)
    ] = None,
    agent: Agent = None,
    text: Text = None,
    everything: Annotated[bool, typer.Option("--all", help="All traces.")] = False,
) -> None:
    """Delete traces for good: by id, age, agent, or the text they hold.

    Example: toolweave traces forget --older_than 30d
    """
    import time

    from toolweave.traces.store import TraceStore
    from toolweave.traces.trace import Filter

    if not (ids or older_than or agent or text or everything):
        raise DataError("nothing was named to forget", "name ids, --older_than, --agent, --text, or --all")
    until = time.time() - _age(older_than) if older_than else None
    with TraceStore(store) as opened:
        count = opened.forget(Filter(ids=tuple(ids or ()), agent=agent, text=text, until=until))
    typer.echo(f"forgot {count} traces")


def register(app: typer.Typer) -> None:
    """Add the commands of this area."""
    app.command("capture")(capture)
    group = typer.Typer(help="Look at captured traces, review and export them.", no_args_is_help=True)
    group.command("list")(list_)
    for command in (show, flag, review, accept, reject, correct, thumb, export, forget):
        group.command(command.__name__)(command)
    app.add_typer(group, name="traces")


def _flagged(path: Path) -> TraceStore:
    """Open a store and flag what is new in it."""
    from toolweave.traces.curate import flag as run_rules
    from toolweave.traces.store import TraceStore

    store = TraceStore(path)
    try:
        run_rules(store)
    except BaseException:
        store.close()
        raise
    return store


def _judge_all(ids: list[str] | None, path: Path, verdict: Verdict, reviewer: str) -> None:
    from toolweave.traces.store import TraceStore

    if not ids:
        raise DataError("no id given", "toolweave traces list shows the ids")
    with TraceStore(path) as store:
        chosen = [
            trace.id
            for id_ in ids
            for trace in (store.visit(id_).traces if id_.startswith("v") else (store.trace(id_),))
        ]
        for trace in chosen:
            store.review(trace, verdict, reviewer)
    typer.echo(f"{verdict.value} {len(chosen)} traces")


def _filter(
    *,
    agent: str | None = None,
    model: str | None = None,
    tool: str | None = None,
    rule: str | None = None,
    verdict: str | None = None,
    since: str | None = None,
    text: str | None = None,
) -> Filter:
    import time

    from toolweave.traces.trace import Filter, Verdict

    if verdict is not None and verdict not in list(Verdict):
        raise DataError(f"no such verdict: {verdict}", f"choose from {', '.join(Verdict)}")
    return Filter(
        agent=agent,
        model=model,
        tool=tool,
        rule=rule,
        verdict=Verdict(verdict) if verdict is not None else None,
        since=time.time() - _age(since) if since else None,
        text=text,
    )


def _redactor(names: str, path: Path | None) -> Redactor:
    from toolweave.traces.redaction import Redactor

    if path is not None:
        return Redactor.from_file(path)
    return Redactor.from_names(name for name in names.split(",") if name not in ("", "none"))


def _age(text: str) -> float:
    """Read `12h`, `30d` or `2w` as seconds."""
    number, unit = text[:-1], text[-1:]
    if unit not in _SECONDS or not number.isdecimal():
        raise DataError(f"{text!r} is no age", "write 12h, 30d or 2w")
    return float(int(number) * _SECONDS[unit])


def _piped_key() -> str:
    while (char := sys.stdin.read(1)).isspace():
        pass
    return char


def _edit(reply: str) -> str | None:
    edited = click.edit(reply, extension=".txt")
    # Editors end a file with a line break that the reply does not have.
    return edited.removesuffix("\n") if edited is not None and not reply.endswith("\n") else edited


def _progress(what: str, count: int) -> None:
    typer.echo(f"\r{what} {count}", nl=False, err=True)


def _console() -> Console:
    from rich.console import Console

    return Console()
