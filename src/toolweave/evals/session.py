"""Whole evaluations, from a model to reports on disk: what the commands `eval run` and `eval compare` do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from toolweave.errors import DataError, ToolweaveError
from toolweave.evals.cache import CountingClient, ReplyCache
from toolweave.evals.cases import Visit, held_out_visits, read_visits, stratified
from toolweave.evals.challenges import challenge_visits
from toolweave.evals.forgetting import chat_losses, run_instructions
from toolweave.evals.gate import Evidence, GateResult, Rule, decide
from toolweave.evals.judge import Judge, disagreements
from toolweave.evals.outputs import print_gate, print_run, reports_beside, write_gate, write_run
from toolweave.evals.results import load_results, save_results
from toolweave.evals.score import VisitResult
from toolweave.evals.steps import StepMetrics, run_steps, steps_of, summarise
from toolweave.evals.targets import AgentSpec, Sampling, Target, open_target, read_agent
from toolweave.evals.visit import Plan, run_visits, source_of
from toolweave.types import Json, Lang

_SETS = ("held_out", "challenges", "instructions", "all")


@dataclass(frozen=True, slots=True)
class Order:
    """What to evaluate and how. `visit_set` is held_out, challenges, instructions or all; `episodes` goes before it."""

    visit_set: str = "all"
    episodes: Path | None = None
    agent: Path | None = None
    limit: int | None = None
    plan: Plan = field(default_factory=Plan)
    sampling: Sampling = field(default_factory=Sampling)
    cache: Path | None = None
    steps: bool = False
    chat_loss: bool = False
    judge: tuple[str, str | None] | None = None
    lang: Lang = Lang.EN

    def __post_init__(self) -> None:
        if self.visit_set not in _SETS:
            raise ToolweaveError(f"unknown set of visits {self.visit_set!r}", f"choose one of {', '.join(_SETS)}")
        if self.plan.trials > 1 and not self.sampling.temperature:
            raise ToolweaveError("greedy replies are all alike", "give --temperature above 0 with --trials")

    def visits(self) -> list[Visit]:
        """Return the visits to run."""
        if self.episodes is not None:
            chosen = read_visits(self.episodes)
        else:
            chosen = held_out_visits() if self.visit_set in ("held_out", "all") else []
            chosen += challenge_visits() if self.visit_set in ("challenges", "all") else []
        return stratified(chosen, self.limit)

    @property
    def instructions(self) -> bool:
        """Whether the instructions are run, too."""
        return self.episodes is None and self.visit_set in ("instructions", "all")


def evaluate(model: str, output: Path, order: Order, console: Console, *, name: str | None = None) -> list[VisitResult]:
    """Evaluate a model: results to `output`, reports to a folder of the same name, tables to the console.

    An AgentFabric agent (`order.agent`) plays with its own model when `model` is `agent`. Raises ToolweaveError for
    anything a user can mend; replies got before an interruption are in the cache.
    """
    agent = read_agent(order.agent) if order.agent else None
    visits = agent.play(order.visits()) if agent else order.visits()
    if not visits and not order.instructions:
        raise DataError("no visit to run", "the agent's language has none in this set" if agent else "")
    reports = reports_beside(output)
    with ReplyCache(order.cache) as cache, _target(model, agent, order.sampling, name) as target:
        results = _run(visits, target, cache, order, console)
        metrics = _step_metrics(visits, target, cache, order, console) if order.steps and visits else None
        if order.instructions:
            results += run_instructions(target, cache)
    save_results(output, results)
    extra = _second_opinions(results, order, console)
    if order.chat_loss:
        console.print("loss on held-out chat")
        losses = chat_losses(model)
        _loss_file(output).write_text(json.dumps(losses, indent=1) + "\n", "utf-8")
        extra["chat_loss"] = round(sum(losses.values()) / len(losses), 4)
    write_run(results, model, reports, order.lang, metrics, extra)
    print_run(results, console, order.lang, metrics)
    console.print(f"{output}\n{reports / 'report.html'}", highlight=False)
    return results


def run_gate(base: str, tuned: str, output: Path, rules: Sequence[Rule], order: Order, console: Console) -> GateResult:
    """Compare two results or models and write `gate.json`, `junit.xml` and `report.html` into `output`."""
    evidence = gather(base, tuned, output, order, console)
    result = decide(evidence, rules)
    write_gate(result, evidence.pairs(), output, order.lang)
    print_gate(result, console, order.lang)
    console.print(str(output / "report.html"), highlight=False)
    return result


def gather(base: str, tuned: str, output: Path, order: Order, console: Console) -> Evidence:
    """Return the evidence of two results files; a model instead of a file is evaluated first."""
    found: list[tuple[list[VisitResult], dict[str, float]]] = []
    for source, role in ((base, "base"), (tuned, "tuned")):
        path = Path(source)
        if path.suffix != ".jsonl":
            path = output / f"{role}.jsonl"
            here = replace(order, chat_loss=order.chat_loss and not source.startswith(("http://", "https://")))
            evaluate(source, path, here, console)
        losses = _loss_file(path)
        found.append((load_results(path), json.loads(losses.read_text("utf-8")) if losses.is_file() else {}))
    return Evidence(found[0][0], found[1][0], found[0][1], found[1][1])


@contextmanager
def _target(model: str, agent: AgentSpec | None, sampling: Sampling, name: str | None) -> Iterator[Target]:
    if model != "agent":
        with open_target(model, sampling, name=name) as target:
            yield target
        return
    if agent is None or not agent.llm:
        raise ToolweaveError(
            "the agent names no model", "give --agent a builder_config.json beside a model_config.json"
        )
    settings = {**(agent.llm.get("generate_cfg") or {}), **sampling.settings()}
    llm: dict[str, Any] = {**agent.llm, "generate_cfg": settings}
    yield Target(llm, f"{llm.get('api_base') or llm.get('model_server')} {llm['model']}")


def _run(
    visits: Sequence[Visit], target: Target, cache: ReplyCache, order: Order, console: Console
) -> list[VisitResult]:
    right = 0
    with progress(console) as shows:
        bar = shows.add_task("visits", total=len(visits) * order.plan.trials, note="")

        def done(result: VisitResult) -> None:
            nonlocal right
            right += result.ok
            shows.update(bar, advance=1, note=f"{right} right")

        return run_visits(visits, target.llm, plan=order.plan, model_id=target.model_id, cache=cache, done=done)


def _step_metrics(
    visits: Sequence[Visit], target: Target, cache: ReplyCache, order: Order, console: Console
) -> StepMetrics:
    source = source_of(target.llm, 0, target.model_id)
    with progress(console) as shows:
        bar = shows.add_task("steps", total=len(steps_of(visits)), note="")
        steps = run_steps(visits, source, cache, order.plan.concurrency, lambda: shows.advance(bar))
    return summarise(steps)


def _second_opinions(results: Sequence[VisitResult], order: Order, console: Console) -> Json:
    if order.judge is None:
        return {}
    url, name = order.judge
    with open_target(url, Sampling(), name=name) as target, progress(console) as shows:
        bar = shows.add_task("judge", total=len(results), note="")
        differing = disagreements(results, Judge(CountingClient(target.llm)), lambda: shows.advance(bar))
    rows = [
        {"id": r.id, "trial": r.trial, "rules": r.faithful, "judge": opinion.faithful, "reason": opinion.reason}
        for r, opinion in differing
    ]
    return {"judge": {"model": target.model_id, "n": len(results), "differs": rows}}


def _loss_file(output: Path) -> Path:
    return output.with_suffix(".chat_loss.json")


def progress(console: Console) -> Progress:
    """Return a progress bar for an evaluation; its tasks have a `note`."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console,
    )  # fmt: skip
