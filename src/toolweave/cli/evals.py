"""Commands that prove: visits, the gate, benchmarks, replay, and the demo of the whole loop."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from toolweave.types import Lang

_FAILED = 1

ModelOption = Annotated[
    str,
    typer.Option(
        "--model", help="URL (…/v1), folder, GGUF file, hub id, embedded, embedded-tools.", show_default=False
    ),
]
LangOption = Annotated[Lang, typer.Option("--lang", help="Language of the reports.")]
CacheOption = Annotated[Path, typer.Option("--cache", help="File of replies; a broken-off run goes on from it.")]
_CACHE = Path("output/eval/replies.sqlite")

evals = typer.Typer(help="Evaluate models: visits, gate, benchmarks, replay, study.", no_args_is_help=True)


class VisitSet(StrEnum):
    """Embedded sets of visits."""

    HELD_OUT = "held_out"
    CHALLENGES = "challenges"
    INSTRUCTIONS = "instructions"
    ALL = "all"


class Tools(StrEnum):
    """Where observations come from."""

    RECORDED = "recorded"
    SIMULATED = "simulated"


class Turns(StrEnum):
    """Who answers the earlier turns of a conversation."""

    RECORDED = "recorded"
    LIVE = "live"


@evals.command("run")
def run(
    model: ModelOption,
    output: Annotated[Path, typer.Option("--output", help="Results (JSONL); reports go into a folder beside it.")],
    visit_set: Annotated[VisitSet, typer.Option("--set", help="Which embedded visits.")] = VisitSet.ALL,
    episodes: Annotated[Path | None, typer.Option("--episodes", help="Visits of your own (JSONL).")] = None,
    agent: Annotated[Path | None, typer.Option("--agent", help="AgentFabric builder_config.json to play.")] = None,
    name: Annotated[str | None, typer.Option("--served_model_name", help="Model at the URL.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Run about so many of the visits.")] = None,
    tools: Annotated[Tools, typer.Option("--tools", help="Recorded or simulated observations.")] = Tools.RECORDED,
    history: Annotated[Turns, typer.Option("--history", help="Earlier turns as recorded, or live.")] = Turns.RECORDED,
    trials: Annotated[int, typer.Option("--trials", min=1, help="Samples of each visit, for pass^k.")] = 1,
    temperature: Annotated[float, typer.Option("--temperature", min=0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option("--seed", help="Trial t samples with seed + t.")] = 0,
    max_tokens: Annotated[int, typer.Option("--max_tokens", min=1, help="Longest reply.")] = 256,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Visits at once.")] = 12,
    cache: CacheOption = _CACHE,
    steps: Annotated[bool, typer.Option(help="Also Plan.EM, Act.EM, HalluRate, Avg.F1 and R-L.")] = True,
    chat_loss: Annotated[bool, typer.Option("--chat_loss", help="Also measure loss on held-out chat.")] = False,
    judge: Annotated[str | None, typer.Option("--judge", help="URL of a judge model for answers.")] = None,
    judge_name: Annotated[str | None, typer.Option("--judge_model", help="Judge at that URL.")] = None,
    lang: LangOption = Lang.EN,
) -> None:
    """Run visits on a model and report what went right, what failed how, and what it cost.

    Example: toolweave eval run --model output/demo/sft/adapter-merged --output output/eval/tuned.jsonl
    """
    from rich.console import Console

    from toolweave.evals.session import Order, evaluate
    from toolweave.evals.targets import Sampling
    from toolweave.evals.visit import History, Plan, ToolMode

    order = Order(
        visit_set=visit_set.value,
        episodes=episodes,
        agent=agent,
        limit=limit,
        plan=Plan(ToolMode(tools), History(history), trials, concurrency),
        sampling=Sampling(temperature, seed, max_tokens),
        cache=cache,
        steps=steps,
        chat_loss=chat_loss,
        judge=(judge, judge_name) if judge else None,
        lang=lang,
    )
    evaluate(model, output, order, Console(), name=name)


@evals.command("compare")
def compare(
    base: Annotated[str, typer.Argument(help="Results (JSONL), or a model.", show_default=False)],
    tuned: Annotated[str, typer.Argument(help="Results (JSONL), or a model.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", help="Folder for results and reports.")] = Path("output/gate"),
    rules: Annotated[Path | None, typer.Option("--rules", help="Rules (YAML); the embedded ones if not given.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Visits to run on models.")] = None,
    cache: CacheOption = _CACHE,
    lang: LangOption = Lang.EN,
) -> None:
    """Decide whether TUNED may replace BASE: exit code 0 if it may, 1 if not or if it is undecided.

    Example: toolweave eval compare embedded output/demo/sft/adapter-merged --output output/gate
    """
    from rich.console import Console

    from toolweave.evals.gate import Verdict, read_rules
    from toolweave.evals.session import Order, run_gate

    order = Order(limit=limit, cache=cache, chat_loss=True, lang=lang)
    result = run_gate(base, tuned, output, read_rules(rules), order, Console())
    if result.verdict is not Verdict.PASS:
        raise typer.Exit(_FAILED)


@evals.command("bfcl")
def bfcl(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="BFCL's data folder.", show_default=False)],
    model: ModelOption,
    output: Annotated[Path, typer.Option("--output", help="Results (JSONL).")] = Path("output/eval/bfcl.jsonl"),
    category: Annotated[
        list[str] | None, typer.Option("--category", help="Only this; may be repeated.", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Questions of each category.")] = None,
    dialect: Annotated[str | None, typer.Option("--dialect", help="Such as v06; the model's own if not given.")] = None,
    name: Annotated[str | None, typer.Option("--served_model_name", help="Model at the URL.")] = None,
    max_tokens: Annotated[int, typer.Option("--max_tokens", min=1, help="Longest reply.")] = 256,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Questions at once.")] = 12,
    cache: CacheOption = _CACHE,
) -> None:
    """Ask BFCL's questions: simple, multiple, parallel, parallel_multiple, irrelevance, and live_… of each.

    Example: toolweave eval bfcl bfcl_eval/data --model embedded --category simple --limit 100
    """
    from rich.console import Console

    from toolweave.evals.benchmarks import run_bfcl
    from toolweave.evals.targets import Sampling

    run_bfcl(
        folder,
        model,
        output,
        Console(),
        Sampling(max_tokens=max_tokens),
        categories=category or (),
        limit=limit,
        dialect=dialect,
        name=name,
        cache=cache,
        concurrency=concurrency,
    )


@evals.command("replay")
def replay(
    model: ModelOption,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Traces, visits.", show_default=False)
    ] = None,
    store: Annotated[Path, typer.Option("--store", help="File of the trace store.")] = Path("traces.db"),
    output: Annotated[Path, typer.Option("--output", help="Differences (JSONL).")] = Path("output/eval/replay.jsonl"),
    agent: Annotated[str | None, typer.Option("--agent", help="Only this agent, as listed.")] = None,
    rule: Annotated[str | None, typer.Option("--rule", help="Only what this rule flagged; * for any.")] = None,
    flag: Annotated[bool, typer.Option("--flag", help="Store failures as traces to review.")] = False,
    name: Annotated[str | None, typer.Option("--served_model_name", help="Model at the URL.")] = None,
    max_tokens: Annotated[int, typer.Option("--max_tokens", min=1, help="Longest reply.")] = 256,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Requests at once.")] = 12,
    cache: CacheOption = _CACHE,
    lang: LangOption = Lang.EN,
) -> None:
    """Ask captured requests of a model again, and show what differs and what fails.

    Example: toolweave eval replay --model output/demo/sft/adapter-merged --store traces.db --flag
    """
    from rich.console import Console

    from toolweave.evals.benchmarks import run_replay
    from toolweave.evals.targets import Sampling
    from toolweave.traces.trace import Filter

    run_replay(
        store,
        model,
        output,
        Console(),
        Sampling(max_tokens=max_tokens),
        wanted=Filter(ids=tuple(ids or ()), agent=agent, rule=rule),
        flag=flag,
        name=name,
        cache=cache,
        concurrency=concurrency,
        lang=lang,
    )


class Tuning(StrEnum):
    """Conditions of the study."""

    BASE = "base"
    OFF_FORMAT = "off_format"
    FORMAT_MATCHED = "format_matched"
    CAPTURED = "captured"
    MIXED = "mixed"


@evals.command("study")
def study(
    model: Annotated[str, typer.Option("--model", help="Base model: folder, hub id, or embedded.")] = "embedded",
    output: Annotated[Path, typer.Option("--output", help="Folder to write to.")] = Path("output/study"),
    only: Annotated[list[Tuning] | None, typer.Option("--only", help="Only this condition; may be repeated.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="Instead of 1, 2 and 3; may be repeated.")] = None,
    training_visits: Annotated[int, typer.Option("--training_visits", min=1, help="To learn from.")] = 160,
    visits: Annotated[int, typer.Option("--visits", min=1, help="Held-out visits to run.")] = 60,
    max_steps: Annotated[int, typer.Option("--max_steps", help="End training early; -1 does not.")] = -1,
) -> None:
    """Run the ablations: off-format data, format-matched data, captured requests, mix-in. Finished pieces are kept.

    Example: toolweave eval study --only off_format --only format_matched --seed 1
    """
    from rich.console import Console

    from toolweave.evals.study import Condition, StudyPlan, run_study

    plan = StudyPlan(model, training_visits, visits, max_steps=max_steps)
    conditions = [Condition(name) for name in only or list(Tuning)]
    run_study(output, plan, Console(), conditions, seeds or (1, 2, 3))


def demo(
    model: Annotated[str, typer.Option("--model", help="Folder, GGUF file, hub id, or embedded.")] = "embedded",
    output: Annotated[Path, typer.Option("--output", help="Folder to write to.")] = Path("output/demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over, reuse no finished step.")] = False,
    visits: Annotated[int, typer.Option("--visits", min=1, help="How many held-out visits to run.")] = 60,
    minutes: Annotated[int, typer.Option("--minutes", min=1, help="All steps together; more learn more.")] = 30,
    start: Annotated[
        str | None,
        typer.Option(
            "--start", help="What fine-tuning goes on from: --model itself, but for embedded that is embedded-tools."
        ),
    ] = None,
) -> None:
    """Run the whole loop: visits before, data, fine-tune, merge, serve, visits after, report.

    Example: toolweave demo --model embedded --output output/demo
    """
    from toolweave.demo import run_demo

    run_demo(model, output, fresh, visits, minutes, start)


def register(app: typer.Typer) -> None:
    """Add the commands of this area."""
    app.command("demo")(demo)
    app.add_typer(evals, name="eval")
