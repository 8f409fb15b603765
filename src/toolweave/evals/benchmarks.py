"""Whole runs of BFCL and of captured traces: what the commands `eval bfcl` and `eval replay` do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from toolweave.agents.detect import detect_dialect
from toolweave.data.jsonl import write_jsonl
from toolweave.dialects import get_dialect
from toolweave.evals.bfcl import BfclResult, count_categories, read_questions, run_questions
from toolweave.evals.cache import ReplyCache
from toolweave.evals.html import replay_html
from toolweave.evals.outputs import reports_beside
from toolweave.evals.replay import Outcome, Replayed, count_outcomes, flag_failures, replay, shown
from toolweave.evals.session import progress
from toolweave.evals.stats import wilson
from toolweave.evals.summary import rate
from toolweave.evals.targets import Sampling, open_target
from toolweave.evals.visit import source_of
from toolweave.evals.words import say
from toolweave.traces.store import EVERYTHING, TraceStore
from toolweave.traces.trace import Filter
from toolweave.types import Lang

_SHOWN = 20


def run_bfcl(
    folder: Path,
    model: str,
    output: Path,
    console: Console,
    sampling: Sampling,
    *,
    categories: Sequence[str] = (),
    limit: int | None = None,
    dialect: str | None = None,
    name: str | None = None,
    cache: Path | None = None,
    concurrency: int = 12,
) -> list[BfclResult]:
    """Ask a model BFCL's questions: results to `output`, accuracies to `summary.json` in a folder of the same name.

    `dialect` is the model's own if not given, `limit` the number of questions of each category.
    Raises ToolweaveError for anything a user can mend.
    """
    questions = read_questions(folder, categories, limit)
    reports = reports_beside(output)
    with open_target(model, sampling, name=name) as target, ReplyCache(cache) as replies, progress(console) as shows:
        source = source_of(target.llm, 0, target.model_id)
        spoken = get_dialect(dialect) if dialect else detect_dialect(source.model, target.llm)
        bar = shows.add_task(f"BFCL in {spoken.name}", total=len(questions), note="")
        results = run_questions(questions, source, spoken, replies, concurrency, lambda result: shows.advance(bar))
    write_jsonl(output, (result.to_json() for result in results))
    counts = count_categories(results)
    table = Table(title="BFCL", title_justify="left")
    for heading in ("category", "right (95 % interval)"):
        table.add_column(heading)
    for category, of in counts.items():
        table.add_row(category, rate(of))
    average = sum(of.ok / of.n for of in counts.values()) / len(counts)
    table.add_row("average of the categories", f"{average:.1%}")
    console.print(table)
    rows = {
        category: {"n": of.n, "right": of.ok, "interval": [round(bound, 4) for bound in wilson(of.ok, of.n)]}
        for category, of in counts.items()
    }
    content = {"model": model, "dialect": spoken.name, "average": round(average, 4), "categories": rows}
    reports.mkdir(exist_ok=True)
    (reports / "summary.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    console.print(str(output), highlight=False)
    return results


def run_replay(
    store: Path,
    model: str,
    output: Path,
    console: Console,
    sampling: Sampling,
    *,
    wanted: Filter = EVERYTHING,
    flag: bool = False,
    name: str | None = None,
    cache: Path | None = None,
    concurrency: int = 12,
    lang: Lang = Lang.EN,
) -> list[Replayed]:
    """Ask captured requests of a model: differences to `output` (JSONL) and `report.html` in a folder of that name.

    `flag` stores the failures as traces to review. Raises ToolweaveError for anything a user can mend.
    """
    reports = reports_beside(output)
    with TraceStore(store) as traces:
        total = traces.counts(wanted).traces
        with open_target(model, sampling, name=name) as target, ReplyCache(cache) as kept, progress(console) as shows:
            source = source_of(target.llm, 0, target.model_id)
            bar = shows.add_task("replay", total=total, note="")
            replayed = replay(traces, source, kept, wanted, concurrency, lambda: shows.advance(bar))
        flagged = flag_failures(traces, replayed) if flag else []
    write_jsonl(output, (item.to_json() for item in replayed))
    reports.mkdir(exist_ok=True)
    (reports / "report.html").write_text(replay_html(replayed, model, lang), "utf-8", errors="replace")
    table = Table(title=say("replay", lang), title_justify="left")
    for heading in ("trace", "outcome", "captured", "replayed", "reason"):
        table.add_column(say(heading, lang))
    for item in [item for item in replayed if item.outcome is not Outcome.SAME][:_SHOWN]:
        why = "; ".join(f"{reason.rule}: {reason.why}" for reason in item.why)
        cells = [shown(trace)[:60] for trace in (item.old, item.new)]
        table.add_row(item.old.id, say(item.outcome, lang), *cells, why[:80])
    console.print(table, markup=False)
    counts = count_outcomes(replayed)
    console.print(", ".join(f"{say(outcome, lang)} {count}" for outcome, count in counts.items()), highlight=False)
    if flagged:
        console.print(f"{len(flagged)} traces to review: toolweave traces review --rule replay --store {store}")
    console.print(f"{output}\n{reports / 'report.html'}", highlight=False)
    return replayed
