"""The whole loop on one machine: visits before, fine-tune, merge, serve, visits after, report.

Fine-tuning the embedded model goes on from the starter, which has learned the tools of other agents; what it can do
before it has seen those of the demo is a column of the report. Every step is a command of its own, printed as it runs,
from files to files. A finished step is reused when nothing it depends on has changed, so an interrupted demo goes on
where it was. How much is learned depends on how fast the machine is: all steps together are to take half an hour, or as
long as they are given.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from toolweave import __version__
from toolweave.data.jsonl import write_jsonl
from toolweave.data.mix import Persona, chat_samples, self_cognition_samples
from toolweave.data.synthesize import VISITS_PER_GROUP, training_groups
from toolweave.errors import ToolweaveError
from toolweave.evals.cases import Visit, held_out_visits
from toolweave.evals.report import Comparison, print_report, write_report
from toolweave.evals.results import load_results, save_results
from toolweave.evals.score import VisitResult
from toolweave.evals.targets import model_hash
from toolweave.evals.visit import run_visits
from toolweave.models.locate import EMBEDDED, EMBEDDED_TOOLS, resolve
from toolweave.serving.process import serve_model
from toolweave.training.progress import best_checkpoint
from toolweave.types import Lang, Sample

# As many visits are trained on as this machine learns in the time that is left, within these bounds.
LEAST_VISITS, MOST_VISITS = 220, 24_000
# Merging and the visits after take as long together as the visits before; this share of all is for chats, for starting,
# and for a machine that becomes slower on the way: one took 15 % longer than it had promised.
_RESERVE = 1 / 8
# Groups differ in size by a tenth and more. Of so many, those of about the mean size are measured, so many a language;
# but one where the visits before took a good part of the time, as then measuring does too.
_SIZED_GROUPS, _MEASURED_GROUPS = 128, 2
_GOOD_PART = 1 / 15
# Of phrases and values as in training, to draw the loss of what was not learned: two prompts, one a language.
_VALIDATION_VISITS = 40
_VALIDATION_SEED = 19
_CHATS, _SELF_COGNITION = 40, 24
# One group of visits, which share a prompt of about 800 tokens, is one batch.
_BATCH_TOKENS = 3584
_LEARNING_RATE = 1.5e-3
# The base model rambles to its limit; replies of the tuned one need a third of this.
_MAX_TOKENS = 160
_console = Console()


@dataclass(frozen=True, slots=True)
class _Done:
    """What a finished step left behind."""

    key: str
    seconds: float
    peak_rss_mb: float


class _Steps:
    """Runs steps once: a step whose key (what it depends on) is unchanged is reused."""

    def __init__(self, output: Path) -> None:
        self._folder = output / "steps"
        self._folder.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, _Done] = {}

    def run(self, name: str, depends_on: object, work: Callable[[], object]) -> None:
        """Run `work` unless it is done already, and note time and peak memory of all its processes."""
        key = hashlib.sha256(f"{__version__} {name} {depends_on}".encode()).hexdigest()
        stamp = self._folder / f"{name}.json"
        if stamp.is_file():
            done = _Done(**json.loads(stamp.read_text("utf-8")))
            if done.key == key:
                self.done[name] = done
                _console.print(f"[bold]{name}[/]: finished before in {done.seconds:.0f} s, reused")
                return
            stamp.unlink()
        _console.print(f"[bold]{name}[/]")
        started = time.monotonic()
        with _PeakMemory() as memory:
            work()
        done = _Done(key, time.monotonic() - started, memory.peak_mb)
        stamp.write_text(json.dumps({"key": key, "seconds": done.seconds, "peak_rss_mb": done.peak_rss_mb}))
        self.done[name] = done
        _console.print(f"[dim]{done.seconds:.0f} s, peak memory {done.peak_rss_mb / 1024:.1f} GiB[/]")


class _PeakMemory:
    """Samples the resident memory of this process and all its children."""

    def __enter__(self) -> _PeakMemory:
        self.peak_mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(0.5):
            total = 0
            for process in (own, *own.children(recursive=True)):
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak_mb = max(self.peak_mb, total / 2**20)


def run_demo(
    model: str, output: Path, fresh: bool = False, visits: int = 60, minutes: int = 30, start: str | None = None
) -> None:
    """Run the loop on `model` within `minutes` and write everything into `output`; `fresh` starts over.

    `start` is what fine-tuning goes on from: the model itself, unless it is the embedded one, for which there is a
    starter. Raises ToolweaveError when a model cannot be used or a step fails.
    """
    start = start or (EMBEDDED_TOOLS if model == EMBEDDED else model)
    resolve(model)
    start_hash = model_hash(start)
    if fresh and output.exists():
        if any(output.iterdir()) and not (output / "steps").is_dir():
            raise ToolweaveError(
                f"{output} was not written by the demo", "choose another --output, or empty it yourself"
            )
        shutil.rmtree(output)
    steps = _Steps(output)
    samples, validation, run = output / "samples.jsonl", output / "validation.jsonl", output / "sft"
    merged, size = run / "merged", output / "size.json"
    base_visits, tuned_visits = output / "visits_base.jsonl", output / "visits_tuned.jsonl"
    starter_visits = output / "visits_starter.jsonl"
    chosen = held_out_visits(visits)
    asked = [visit.id + visit.turn.query for visit in chosen]

    steps.run("visits before", (model, asked), lambda: visit_model(model, base_visits, chosen))
    if start != model:
        steps.run("visits of the starter", (start_hash, asked), lambda: visit_model(start, starter_visits, chosen))
    spent = sum(done.seconds for done in steps.done.values())
    after = steps.done["visits before"].seconds
    steps.run(
        "speed",
        (start, minutes, LEAST_VISITS, MOST_VISITS),
        lambda: _choose_size(start, 60 * minutes * (1 - _RESERVE) - spent, after, size),
    )
    training_visits = int(json.loads(size.read_text("utf-8"))["training_visits"])
    steps.run(
        "data", (training_visits, _CHATS, _SELF_COGNITION), lambda: _synthesize(samples, validation, training_visits)
    )
    learned = f"{start_hash} {hashlib.sha256(samples.read_bytes()).hexdigest()}"
    steps.run("fine-tune", learned, lambda: _fine_tune(samples, validation, start, run, learned))
    trained = (learned, steps.done["fine-tune"].seconds)

    def merge() -> None:
        shutil.rmtree(merged, ignore_errors=True)
        _command("export", "--ckpt_dir", best_checkpoint(run), "--merge_lora", "true", "--output_dir", merged)

    steps.run("merge", trained, merge)
    steps.run("visits after", (trained, asked), lambda: visit_model(str(merged), tuned_visits, chosen))

    comparison = Comparison(
        base=load_results(base_visits),
        starter=load_results(starter_visits) if start != model else (),
        tuned=load_results(tuned_visits),
        seconds=sum(done.seconds for done in steps.done.values()),
        peak_rss_mb=max(done.peak_rss_mb for done in steps.done.values()),
        merged_model=str(merged),
        stage_seconds={name: done.seconds for name, done in steps.done.items()},
        loss_plot=run / "images" / "loss.png",
    )
    write_report(comparison, output)
    print_report(comparison, _console)
    for name, done in steps.done.items():
        _console.print(f"{name:>14}  {done.seconds:6.0f} s  {done.peak_rss_mb / 1024:4.1f} GiB")
    _console.print(f"report: {output / 'report.html'}\nserve the tuned model: toolweave deploy --ckpt_dir {merged}")


def _choose_size(model: str, seconds: float, after: float, target: Path) -> None:
    """Learn a few groups of visits and write how many fit into `seconds`, of which the visits after take `after`."""
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        samples, run = Path(folder) / "samples.jsonl", Path(folder) / "run"
        groups = _typical_groups(_MEASURED_GROUPS if after < _GOOD_PART * seconds else 1)
        write_jsonl(samples, (sample.to_json() for group in groups for sample in group))
        sft(samples, model, run, "--dataset_test_ratio", "0", "--num_train_epochs", "2")
        log = [json.loads(line) for line in (run / "logging.jsonl").read_text("utf-8").splitlines()]
    a_group = _steady_seconds(log) / len(groups)
    left = seconds - after - (time.monotonic() - started)
    visits = min(max(int(left / a_group) * VISITS_PER_GROUP, LEAST_VISITS), MOST_VISITS)
    target.write_text(json.dumps({"training_visits": visits, "seconds_a_group": a_group}), "utf-8")
    _console.print(f"{a_group:.1f} s for {VISITS_PER_GROUP} visits: training on {visits} of them")


def _typical_groups(each: int) -> list[list[Sample]]:
    """Return training groups, `each` a language, that are for it of about the mean size in characters."""
    groups = list(training_groups(_SIZED_GROUPS * VISITS_PER_GROUP))
    typical: list[list[Sample]] = []
    for lang in Lang:
        sizes = {number: _size(group) for number, group in enumerate(groups) if group[0].meta["lang"] == lang}
        mean = fmean(sizes.values())
        nearest = sorted(sizes, key=lambda number: abs(sizes[number] - mean))
        typical += [groups[number] for number in nearest[:each]]
    return typical


def _size(group: Sequence[Sample]) -> int:
    """Return how many characters a group has, those that its samples share counted once."""
    texts = {message["content"] for sample in group for message in sample.messages}
    return sum(map(len, texts | {sample.completion for sample in group}))


def _steady_seconds(log: Sequence[Mapping[str, float]]) -> float:
    """Return the seconds of the second of two epochs: the first time, memory and new shapes cost more."""
    return log[-1]["seconds"] - log[len(log) // 2 - 1]["seconds"]


def _synthesize(target: Path, validation: Path, visits: int) -> None:
    unlearned = training_groups(_VALIDATION_VISITS, _VALIDATION_SEED)
    write_jsonl(validation, (sample.to_json() for group in unlearned for sample in group))
    samples = [sample for group in training_groups(visits) for sample in group]
    samples += chat_samples(_CHATS) + self_cognition_samples(_SELF_COGNITION, Persona())
    write_jsonl(target, (sample.to_json() for sample in samples))
    _console.print(f"{len(samples)} samples in {target}")


def _fine_tune(samples: Path, validation: Path, model: str, run: Path, learned: str) -> None:
    """Train, or go on with training that was interrupted; what other data or another model left is removed."""
    began_with = run / "began_with.txt"
    key = f"{__version__} {learned}"
    if run.exists() and not (began_with.is_file() and began_with.read_text("utf-8") == key):
        shutil.rmtree(run)
    run.mkdir(parents=True, exist_ok=True)
    began_with.write_text(key, "utf-8")
    sft(samples, model, run, "--val_dataset", validation, "--resume_from_checkpoint", "auto")


def sft(samples: Path, model: str, run: Path, *flags: str | Path) -> None:
    """Fine-tune `model` as the demo does, into the folder `run`. Raises ToolweaveError when that fails."""
    _command(
        "sft", "--dataset", samples, "--model", model, "--output_dir", run, "--add_output_dir_suffix", "false",
        "--max_tokens_per_batch", str(_BATCH_TOKENS), "--learning_rate", str(_LEARNING_RATE), *flags,
    )  # fmt: skip


def _command(*arguments: str | Path) -> None:
    """Run a toolweave command in a process of its own, so that its memory is given back."""
    words = [str(argument) for argument in arguments]
    _console.print(f"[dim]$ toolweave {' '.join(words)}[/]")
    code = subprocess.run([sys.executable, "-m", "toolweave", *words], check=False).returncode
    if code:
        raise ToolweaveError(f"toolweave {words[0]} failed with exit code {code}", "see its message above")


def visit_model(model: str, target: Path, chosen: Sequence[Visit]) -> list[VisitResult]:
    """Serve a model, run visits and save the results to `target`."""
    with serve_model(model) as api_base, _visit_progress() as progress:
        bar = progress.add_task("visits", total=len(chosen), right=0)

        def done(result: VisitResult) -> None:
            progress.advance(bar)
            progress.update(bar, right=progress.tasks[0].fields["right"] + result.ok)

        llm = {"model_server": "openai", "model": model, "api_base": api_base, "is_chat": True,
               "generate_cfg": {"temperature": 0, "max_tokens": _MAX_TOKENS}}  # fmt: skip
        results = run_visits(chosen, llm, done=done)
    save_results(target, results)
    return results


def _visit_progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[right]} right"), console=_console,
    )  # fmt: skip
