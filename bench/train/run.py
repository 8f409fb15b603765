"""Time LoRA training of the embedded model: toolweave, TRL and ms-swift take turns on the same rows.

    python bench/train/run.py            all of it, about 16 minutes with bf16 (without, half of it took 41)
    python bench/train/run.py --smoke    two short turns each, to see that everything works

Every worker holds the same weights (bf16 where the hardware multiplies it fast, else float32), adapter and optimiser
settings, and the same threads. A round lets each train once: a peer one micro-batch of 2 rows, ours one optimiser step.
The first turn of each is warm-up. Ratios are taken within a round, so that noise of the machine strikes both sides;
their median is reported. Writes bench/results/train.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from ours import recipe_of
from peers import PEERS, python_of
from rich.console import Console
from rich.table import Table
from torch import nn
from turns import Worker
from workload import Work, Workload, agent_rows, distinct_rows

from toolweave.models.base_models import LoadedModel, load
from toolweave.models.dtypes import best_dtype
from toolweave.models.locate import EMBEDDED

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".bench"
RESULT = HERE.parent / "results" / "train.json"
SHARING_OFF = "toolweave, sharing off"
_GEMM = 2048
_console = Console(soft_wrap=True, width=150)


class Costs(NamedTuple):
    """Operations of a token and of a pair of tokens of which one sees the other, and how many a second are possible."""

    token: int
    pair: int
    peak: float


@dataclass(frozen=True, slots=True)
class Course:
    """One worker of a workload: who trains, with which options, and the work of each of its turns."""

    name: str
    python: str
    script: str
    options: Mapping[str, Any]
    work: Sequence[Work]


@dataclass(slots=True)
class Timed:
    """What was measured of one worker; the first turn is warm-up."""

    course: Course
    seconds: list[float] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)
    differing: int = 0

    def speeds(self, *, unique: bool = False) -> list[float]:
        """Return tokens per second of each turn after warm-up."""
        done = zip(self.course.work, self.seconds, strict=False)
        return [(work.unique if unique else work.nominal) / seconds for work, seconds in done][1:]

    def share(self, costs: Costs, *, attention: bool) -> float:
        """Return the median share of the GEMM peak, without or with the products of attention."""
        done = list(zip(self.course.work, self.seconds, strict=False))[1:]
        return statistics.median(
            (work.unique * costs.token + work.pairs * costs.pair * attention) / seconds / costs.peak
            for work, seconds in done
        )

    def to_json(self) -> dict[str, Any]:
        """Return the medians and the raw figures."""
        return {
            "version": self.last["version"],
            "tokens_per_second": round(statistics.median(self.speeds()), 1),
            "unique_tokens_per_second": round(statistics.median(self.speeds(unique=True)), 1),
            "peak_bytes": self.last["peak_bytes"],
            "losses": self.last["losses"],
            "turns_with_other_tokens_or_labels": self.differing,
            "turns": [
                {"nominal": work.nominal, "unique": work.unique, "seconds": round(seconds, 4)}
                for work, seconds in zip(self.course.work, self.seconds, strict=False)
            ],
        }


def main() -> None:
    args = _arguments()
    os.environ.update(OMP_NUM_THREADS=str(args.threads), HF_HUB_OFFLINE="1")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(args.threads)
    pythons = {name: python_of(name, CACHE) for name in args.peers}
    dtype = str(best_dtype()).removeprefix("torch.")
    loaded, model = load(EMBEDDED), CACHE / f"embedded-{dtype}"
    if not (model / "config.json").exists():
        _save_plain(loaded, model)
    settings = {**_settings(args), "dtype": dtype}
    started = time.monotonic()

    peaks: list[float] = []
    step = {**settings, "batch": args.rows, "accumulation": 1}
    agent = agent_rows(loaded.template, args.rows * args.steps, recipe_of({**step, "turns": args.steps}))
    rounds = len(agent.rows) // args.batch
    alone = {**settings, "batch": 1, "accumulation": args.batch, "turns": rounds}
    peer = {**settings, "batch": args.batch, "accumulation": args.rows // args.batch}
    on_agent: dict[str, dict[str, Timed]] = {}
    for name, python in pythons.items():
        courses = [_ours("toolweave", agent, {**step, "turns": rounds}, model)]
        if not on_agent:
            courses.append(_ours(SHARING_OFF, agent, alone, model))
        # One peer at a time: each grows to 9 GiB, and two and ours do not fit into 24.
        on_agent[name] = _race(agent, [*courses, *_peers({name: python}, agent, peer, model)], peaks)
    first = next(iter(on_agent.values()))

    step = {**settings, "batch": args.batch, "accumulation": 1, "turns": args.distinct}
    distinct = distinct_rows(loaded.template, args.batch * args.distinct, recipe_of(step))
    on_distinct = _race(distinct, [
        _ours("toolweave", distinct, step, model),
        *_peers(pythons, distinct, step, model),
    ], peaks)  # fmt: skip

    costs = Costs(flops_per_token(loaded.model), flops_per_pair(loaded.model), statistics.median(peaks))
    for timed in on_agent.values():
        _print_table(agent, timed, costs, args)
    _print_table(distinct, on_distinct, costs, args)
    ratios = {
        **{_named(f"ratio_vs_{name}"): ratio(timed, "toolweave", name) for name, timed in on_agent.items()},
        **{_named(f"ratio_no_sharing_vs_{name}"): ratio(first, SHARING_OFF, name) for name in args.peers[:1]},
        "gemm_peak_share": round(first["toolweave"].share(costs, attention=False), 3),
        "gemm_peak_share_with_attention": round(first["toolweave"].share(costs, attention=True), 3),
        **{_named(f"ratio_distinct_vs_{name}"): ratio(on_distinct, "toolweave", name) for name in args.peers},
    }
    figures = {
        **ratios,
        "gemm_peak_flops": costs.peak,
        "flops_per_unique_token": costs.token,
        "flops_per_pair": costs.pair,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "settings": {
            **settings,
            **{k: v for k, v in vars(args).items() if k != "result"},
        },
        "agent": {peer: {name: one.to_json() for name, one in timed.items()} for peer, timed in on_agent.items()},
        "distinct": {name: timed.to_json() for name, timed in on_distinct.items()},
    }
    for name, value in ratios.items():
        _console.print(f"{name:30} {value}", highlight=False)
    _console.print(f"{time.monotonic() - started:.0f} s after the environments were ready", highlight=False)
    result = args.result or (CACHE / "smoke.json" if args.smoke else RESULT)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    _console.print(f"written to {result}", highlight=False)


def flops_per_token(model: nn.Module) -> int:
    """Return the operations that one token's matrix products take: forward, and backward to the input.

    The base is frozen, so it has no product for its weights. The head, attention and the adapters are left out.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return sum(4 * layer.weight.numel() for name, layer in linears.items() if not name.endswith("lm_head"))


def flops_per_pair(model: nn.Module) -> int:
    """Return the operations of attention for a token and one that it sees: two products forward and four backward."""
    config = model.config
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 12 * config.num_hidden_layers * config.num_attention_heads * size


def gemm_peak() -> float:
    """Return operations per second of the best of ten 2048 x 2048 x 2048 products."""
    a, b = (torch.randn(_GEMM, _GEMM).to(best_dtype()) for _ in range(2))
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        torch.mm(a, b)
        seconds.append(time.perf_counter() - started)
    return 2 * _GEMM**3 / min(seconds)


def _named(key: str) -> str:
    return key.replace("-", "_")


def ratio(timed: Mapping[str, Timed], ours: str, peer: str) -> float:
    """Return the median over the rounds of our tokens per second against the peer's fastest variant."""
    variants = [one.speeds() for name, one in timed.items() if name.startswith(peer)]
    pairs = zip(timed[ours].speeds(), max(variants, key=statistics.median), strict=True)
    return round(statistics.median(a / b for a, b in pairs), 2)


def _race(workload: Workload, courses: Sequence[Course], peaks: list[float]) -> dict[str, Timed]:
    """Let all workers learn the workload in turns; each round also measures the GEMM peak."""
    workload.save(CACHE / workload.name)
    workers: dict[str, Worker] = {}
    timed = {course.name: Timed(course) for course in courses}
    try:
        for course in courses:
            with _console.status(f"{workload.name}: {course.name} loads and warms up"):
                log = CACHE / f"{workload.name}-{course.name.replace(', ', '-').replace(' ', '-')}.log"
                command = [course.python, str(HERE / course.script), json.dumps(course.options)]
                workers[course.name] = Worker(command, log)
                _note(timed[course.name], workers[course.name].report())
        rounds = len(courses[0].work)
        for number in range(1, rounds):
            peaks.append(gemm_peak())
            for name, worker in workers.items():
                _note(timed[name], worker.turn())
            speeds = ", ".join(f"{name} {one.speeds()[-1]:.0f}" for name, one in timed.items())
            _console.print(f"{workload.name} round {number}/{rounds - 1}, tokens/s: {speeds}", highlight=False)
        for name, worker in workers.items():
            timed[name].last = worker.turn()
    finally:
        for worker in workers.values():
            worker.end()
    return timed


def _note(timed: Timed, report: Mapping[str, Any]) -> None:
    timed.seconds.append(report["seconds"])
    timed.differing += report.get("same") is False


def _ours(name: str, workload: Workload, options: Mapping[str, Any], model: Path) -> Course:
    output = CACHE / "output" / f"{workload.name}-{name.replace(', ', '-').replace(' ', '-')}"
    shutil.rmtree(output, ignore_errors=True)
    told = {**options, "model": str(model), "data": str(CACHE / workload.name), "output": str(output)}
    return Course(name, sys.executable, "ours.py", told, workload.turns_of_trees(recipe_of(dict(options))))


def _peers(pythons: Mapping[str, str], workload: Workload, options: Mapping[str, Any], model: Path) -> list[Course]:
    courses = []
    for name, python in pythons.items():
        told = {**options, **PEERS[name].options, "model": str(model), "data": str(CACHE / workload.name)}
        told |= {"output": str(CACHE / "output" / f"{workload.name}-{name}"), "per_turn": 1}
        if PEERS[name].single:
            size = options["batch"]
            told |= {"batch": 1, "accumulation": size * options["accumulation"], "per_turn": size}
        courses.append(Course(name, python, PEERS[name].worker, told, workload.turns_of_rows(options["batch"])))
    return courses


def _print_table(workload: Workload, timed: Mapping[str, Timed], costs: Costs, args: argparse.Namespace) -> None:
    lengths = [len(row.encoded.ids) for row in workload.rows]
    ours = timed["toolweave"].course.work
    sharing = sum(work.nominal for work in ours) / sum(work.unique for work in ours)
    title = (
        f"{workload.name}: {len(lengths)} rows of {min(lengths)} to {max(lengths)} tokens, each distinct token "
        f"{sharing:.2f} times; GEMM peak {costs.peak / 1e9:.0f} GFLOP/s"
    )
    table = Table(
        "",
        "tokens/s",
        "unique/s",
        "of GEMM peak (with attention)",
        "peak memory",
        "loss of each step",
        "same tokens and labels",
        title=title,
    )
    for name, one in timed.items():
        nominal, unique = (statistics.median(one.speeds(unique=unique)) for unique in (False, True))
        losses = " ".join(f"{loss:.3f}" for loss in one.last["losses"][: args.steps])
        losses = "other steps" if one.course.name.endswith("sharing off") else losses
        table.add_row(
            name, f"{nominal:.0f}", f"{unique:.0f}",
            f"{one.share(costs, attention=False):.0%} ({one.share(costs, attention=True):.0%})",
            f"{one.last['peak_bytes'] / 2**30:.1f} GiB", losses,
            f"{one.differing} turns differ" if one.differing else "yes",
        )  # fmt: skip
    _console.print(table)


def _save_plain(loaded: LoadedModel, folder: Path) -> None:
    """Save the model as a plain folder, whole or not at all."""
    draft = folder.with_name(f".{folder.name}")
    # The weights are plain tensors by now; transformers remembers that the file's were not, and would refuse.
    vars(loaded.model)["hf_quantizer"] = None
    loaded.model.save_pretrained(draft)
    loaded.template.tokenizer.save_pretrained(draft)
    draft.rename(folder)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "rank": 8,
        "alpha": 32,
        "dropout": args.dropout,
        "learning_rate": args.learning_rate,
        "adam_beta2": 0.95,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=["ms-swift", "trl"])
    parser.add_argument("--rows", type=int, default=16, help="rows of an optimiser step, a multiple of --batch")
    parser.add_argument("--batch", type=int, default=2, help="rows of a peer's micro-batch; 4 need over 24 GiB")
    parser.add_argument("--steps", type=int, default=2, help="optimiser steps of a peer on the agent data")
    parser.add_argument("--distinct", type=int, default=6, help="turns on rows that share nothing")
    parser.add_argument("--dropout", type=float, default=0.05, help="of the adapters; the published recipe has 0.05")
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of every worker")
    parser.add_argument("--smoke", action="store_true", help="few turns, written to .bench/smoke.json")
    parser.add_argument("--result", type=Path, default=None, help="where the figures go")
    args = parser.parse_args()
    if args.smoke:
        args.batch, args.rows, args.steps, args.distinct = 1, 2, 1, 2
    if args.rows % args.batch:
        parser.error("--rows must be a multiple of --batch")
    return args


if __name__ == "__main__":
    main()
