"""The seed's ablations on one model: what off-format data, format, captured requests and mix-in each are worth.

Every condition learns from the same number of visits, so that none wins by more data; only the last adds rows, of
general chat and about the model itself. A piece is a condition with a seed: data, fine-tune, merge, visits.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from random import Random

from matplotlib.figure import Figure
from rich.console import Console

from toolweave import __version__
from toolweave.data.catalogue import Agent, Breadth, Split, load_catalogue
from toolweave.data.jsonl import write_jsonl
from toolweave.data.mix import Persona, chat_samples, self_cognition_samples
from toolweave.data.synthesize import VISITS_PER_GROUP, Kind, Synthesizer
from toolweave.dialects import get_dialect
from toolweave.errors import ToolweaveError
from toolweave.evals.cache import ReplyCache
from toolweave.evals.cases import Line, held_out_visits
from toolweave.evals.results import load_results, save_results
from toolweave.evals.score import VisitResult
from toolweave.evals.stats import Interval, bootstrap
from toolweave.evals.targets import Sampling, open_target
from toolweave.evals.visit import run_visits
from toolweave.training.progress import best_checkpoint
from toolweave.types import Episode, Json, Lang, Sample

# Public rows are English, play no role, and know neither errors nor missing arguments nor chat.
_PUBLIC_KINDS = (Kind.ONE_CALL, Kind.TWO_CALL, Kind.FOLLOW_UP)
_CAPTURED_SHARE = 0.4
_MAX_TOKENS = 160
_RESULTS, _KEY = "visits.jsonl", "piece.json"


class Condition(StrEnum):
    """What the model was tuned on; each adds to, or changes, the one before."""

    BASE = "base"
    OFF_FORMAT = "off_format"
    FORMAT_MATCHED = "format_matched"
    CAPTURED = "captured"
    MIXED = "mixed"


TITLES = {
    Condition.BASE: "not tuned",
    Condition.OFF_FORMAT: "public rows, their own format (ReAct)",
    Condition.FORMAT_MATCHED: "the same rows, the app's format",
    Condition.CAPTURED: "+ captured requests",
    Condition.MIXED: "+ general chat and self-cognition",
}


@dataclass(frozen=True, slots=True)
class StudyPlan:
    """What a piece learns and how it is asked. The default takes about 3 minutes of training on two cores.

    `max_steps` ends training early; -1 learns every row once.
    """

    model: str = "embedded"
    training_visits: int = 160
    visits: int = 60
    chats: int = 40
    self_cognition: int = 24
    max_steps: int = -1


@dataclass(frozen=True, slots=True)
class Measure:
    """A share of the visits that a condition got right in one respect.

    `mean` is over visits and seeds, `interval` (95 %) bootstraps the visits, `seeds` are the shares of each seed.
    """

    mean: float
    interval: Interval
    seeds: tuple[float, ...]


MEASURES: Mapping[str, Callable[[VisitResult], bool | None]] = {
    "whole visits": lambda r: r.ok,
    "calls": lambda r: r.called if r.tools else None,
    "arguments": lambda r: r.right if r.tools else None,
    "summary": lambda r: r.faithful if r.tools else None,
    "stopping": lambda r: r.stopped,
    "chat": lambda r: r.ok if r.line is Line.NO_CALL else None,
}
"""What the table counts; None: the visit says nothing about it."""


def run_study(
    output: Path, plan: StudyPlan, console: Console, conditions: Sequence[Condition], seeds: Sequence[int]
) -> None:
    """Run the pieces that `output` does not have yet, and write table, plot and figures of those it has.

    Interrupted pieces go on where they were. Raises ToolweaveError when a step fails.
    """
    output.mkdir(parents=True, exist_ok=True)
    # The model as it was is asked once.
    pieces = [(c, seed if c is not Condition.BASE else 0) for seed in seeds for c in conditions]
    for condition, seed in dict.fromkeys(pieces):
        _run_piece(output / f"{condition}-{seed}", plan, condition, seed, console)
    found = read_study(output, plan)
    write_study(output, found)
    console.print((output / "table.md").read_text("utf-8"), markup=False, highlight=False)


def read_study(output: Path, plan: StudyPlan) -> dict[Condition, list[list[VisitResult]]]:
    """Return the results of the finished pieces of a plan, by condition and seed."""
    found: dict[Condition, list[list[VisitResult]]] = {}
    for condition in Condition:
        for folder in sorted(output.glob(f"{condition}-*")):
            seed = folder.name.rpartition("-")[2]
            if seed.isdecimal() and (folder / _RESULTS).is_file() and _is_of(folder, _key(plan, condition, int(seed))):
                found.setdefault(condition, []).append(load_results(folder / _RESULTS))
    return found


def write_study(output: Path, found: Mapping[Condition, Sequence[Sequence[VisitResult]]]) -> None:
    """Write `table.md`, `study.json` and `study.png`."""
    measured = {condition: measure_all(results) for condition, results in found.items()}
    content: Json = {
        condition: {name: asdict(measure) for name, measure in measures.items()}
        for condition, measures in measured.items()
    }
    (output / "study.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    (output / "table.md").write_text(table(measured), "utf-8")
    _plot(measured).savefig(output / "study.png", dpi=120)


def measure_all(results: Sequence[Sequence[VisitResult]]) -> dict[str, Measure]:
    """Return the measures of one condition from its seeds' results."""
    return {name: _measure(results, of) for name, of in MEASURES.items()}


def table(measured: Mapping[Condition, Mapping[str, Measure]]) -> str:
    """Return the Markdown table: per cent right, 95 % interval, and lowest to highest seed where there are several."""
    lines = ["| tuned on | " + " | ".join(MEASURES) + " |", "|---" * (len(MEASURES) + 1) + "|"]
    for condition, measures in measured.items():
        lines.append(f"| {TITLES[condition]} | " + " | ".join(_cell(measures[name]) for name in MEASURES) + " |")
    return "\n".join(lines) + "\n"


def training_data(condition: Condition, plan: StudyPlan, seed: int) -> list[Sample]:
    """Return the rows that a condition learns from."""
    if condition is Condition.BASE:
        return []
    captured = (
        round(plan.training_visits * _CAPTURED_SHARE) if condition in (Condition.CAPTURED, Condition.MIXED) else 0
    )
    matched = condition is not Condition.OFF_FORMAT
    samples = [
        sample
        for episode in islice(public_episodes(plan.training_visits, seed), plan.training_visits - captured)
        for sample in get_dialect(episode.meta["dialect"] if matched else "react").render(episode)
    ]
    for episode in captured_episodes(captured, seed):
        samples += get_dialect(episode.meta["dialect"]).render(episode)
    if condition is Condition.MIXED:
        samples += chat_samples(plan.chats, seed) + self_cognition_samples(plan.self_cognition, Persona(), seed)
    return samples


def public_episodes(count: int, seed: int) -> list[Episode]:
    """Return episodes as public rows have them: English, no role, a call in each, tools of all agents."""
    synthesizer = Synthesizer(seed, Split.TRAIN)
    found: list[Episode] = []
    for agent in _agents(count, seed):
        group = synthesizer.episodes(agent, Lang.EN, 2 * VISITS_PER_GROUP)
        fitting = [episode for episode in group if episode.meta["kind"] in _PUBLIC_KINDS]
        found += [replace(episode, instruction="") for episode in fitting[:VISITS_PER_GROUP]]
    return found[:count]


def captured_episodes(count: int, seed: int) -> list[Episode]:
    """Return episodes of the app's agents, roles and kinds of visit, Chinese and English in turn."""
    synthesizer = Synthesizer(seed + 1000, Split.TRAIN)
    found: list[Episode] = []
    for number, agent in enumerate(_agents(count, seed + 1000)):
        found += synthesizer.episodes(agent, list(Lang)[number % 2], VISITS_PER_GROUP)
    return found[:count]


def _agents(count: int, seed: int) -> list[Agent]:
    agents = load_catalogue().known(Breadth.CORE)
    Random(seed).shuffle(agents)
    groups = count // VISITS_PER_GROUP + 2
    return (agents * (groups // len(agents) + 1))[:groups]


def _run_piece(folder: Path, plan: StudyPlan, condition: Condition, seed: int, console: Console) -> None:
    key = _key(plan, condition, seed)
    if folder.exists() and not _is_of(folder, key):
        shutil.rmtree(folder)  # of another plan
    if (folder / _RESULTS).is_file():
        console.print(f"{folder.name}: finished before")
        return
    console.print(f"[bold]{folder.name}[/]: {TITLES[condition]}")
    folder.mkdir(exist_ok=True)
    (folder / _KEY).write_text(json.dumps({"key": key}), "utf-8")
    model = plan.model
    if condition is not Condition.BASE:
        model = str(_tuned(folder, plan, condition, seed))
    sampling = Sampling(max_tokens=_MAX_TOKENS)
    with ReplyCache(folder / "replies.sqlite") as cache, open_target(model, sampling) as target:
        results = run_visits(held_out_visits(plan.visits), target.llm, model_id=target.model_id, cache=cache)
    save_results(folder / _RESULTS, results)
    # Half a gigabyte of weights a piece: the adapter stays.
    shutil.rmtree(folder / "merged", ignore_errors=True)


def _tuned(folder: Path, plan: StudyPlan, condition: Condition, seed: int) -> Path:
    """Train and merge, as far as that is not done yet, and return the merged model."""
    samples, run, merged = folder / "samples.jsonl", folder / "sft", folder / "merged"
    if not samples.is_file():
        write_jsonl(samples, (sample.to_json() for sample in training_data(condition, plan, seed)))
    _toolweave(
        "sft", "--dataset", samples, "--model", plan.model, "--output_dir", run, "--add_output_dir_suffix", "false",
        "--resume_from_checkpoint", "auto", "--seed", seed, "--max_steps", plan.max_steps,
    )  # fmt: skip
    shutil.rmtree(merged, ignore_errors=True)
    _toolweave("export", "--ckpt_dir", best_checkpoint(run), "--merge_lora", "true", "--output_dir", merged)
    return merged


def _toolweave(*words: object) -> None:
    """Run a command in a process of its own, so that its memory is given back."""
    command = [sys.executable, "-m", "toolweave", *map(str, words)]
    code = subprocess.run(command, check=False).returncode
    if code:
        raise ToolweaveError(f"toolweave {words[0]} failed with exit code {code}", "see its message above")


def _key(plan: StudyPlan, condition: Condition, seed: int) -> str:
    """Return what tells pieces of different plans apart."""
    of = [__version__, asdict(plan), condition, seed]
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()


def _is_of(folder: Path, key: str) -> bool:
    try:
        return bool(json.loads((folder / _KEY).read_text("utf-8"))["key"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _measure(seeds: Sequence[Sequence[VisitResult]], of: Callable[[VisitResult], bool | None]) -> Measure:
    shares: list[float] = []
    by_visit: dict[str, list[float]] = {}
    for results in seeds:
        marks = {result.id: float(mark) for result in results if (mark := of(result)) is not None}
        shares.append(sum(marks.values()) / max(1, len(marks)))
        for visit, share in marks.items():
            by_visit.setdefault(visit, []).append(share)
    means = [sum(marks) / len(marks) for marks in by_visit.values()]
    return Measure(sum(means) / max(1, len(means)), bootstrap(means), tuple(shares))


def _cell(measure: Measure) -> str:
    low, high = (f"{100 * bound:.0f}" for bound in measure.interval)
    text = f"{100 * measure.mean:.0f} ({low}–{high})"
    if len(measure.seeds) > 1:
        text += f" [{100 * min(measure.seeds):.0f}…{100 * max(measure.seeds):.0f}]"
    return text


def _plot(measured: Mapping[Condition, Mapping[str, Measure]]) -> Figure:
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / max(1, len(measured))
    for number, (condition, measures) in enumerate(measured.items()):
        places = [at + (number - (len(measured) - 1) / 2) * width for at in range(len(MEASURES))]
        chosen = [measures[name] for name in MEASURES]
        below = [max(0.0, m.mean - m.interval.low) for m in chosen]
        above = [max(0.0, m.interval.high - m.mean) for m in chosen]
        bars = [m.mean for m in chosen]
        axes.bar(places, bars, width, yerr=[below, above], label=TITLES[condition], capsize=2, ecolor="#555")
        for place, measure in zip(places, chosen, strict=True):
            axes.plot([place] * len(measure.seeds), measure.seeds, "k.", markersize=3)
    axes.set_xticks(range(len(MEASURES)), list(MEASURES))
    axes.set(ylim=(0, 1.05), ylabel="share of visits")
    if measured:
        axes.legend(fontsize=7)
    return figure
