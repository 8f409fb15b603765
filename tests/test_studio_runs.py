"""Training runs as the Studio keeps them: real processes, and what is read from their folders."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolweave.data.jsonl import write_jsonl
from toolweave.errors import DataError, ModelError
from toolweave.studio.lineage import Lineage, lineage_of
from toolweave.studio.runs import Run, Runs, RunStatus, _read_log
from toolweave.training.recipe import Recipe
from toolweave.types import Message, Sample


def rows(path: Path, count: int = 12) -> Path:
    meta = {"kind": "trace", "agent": "天气助手", "model": "m", "verdict": "corrected"}
    samples = [
        Sample((Message(role="user", content=f"{n}区天气"),), f"晴，{n}度。", (), (), {**meta, "trace": f"t{n}"})
        for n in range(count)
    ]
    write_jsonl(path, (sample.to_json() for sample in samples))
    return path


def recipe(model: Path, data: Path, **choices: object) -> Recipe:
    return Recipe.of(model=str(model), dataset=str(data), batch_size=2, gradient_accumulation_steps=1, **choices)


def until(runs: Runs, name: str, holds: Callable[[Run], bool]) -> Run:
    for _ in range(1200):
        run = runs.get(name)
        if holds(run):
            return run
        time.sleep(0.1)
    raise AssertionError(f"{run.status}: {run.message}\n{runs.printed(name)}")


def test_a_run_outlives_its_studio_and_is_stopped_and_gone_on_with(tiny_model_dir: Path, tmp_path: Path) -> None:
    data = rows(tmp_path / "rows.jsonl")
    root = tmp_path / "runs"
    begun = Runs(root).start(recipe(tiny_model_dir, data, num_train_epochs=400, eval_steps=500))
    assert begun.status is RunStatus.RUNNING
    assert begun.total is None
    leads = psutil.Process(json.loads((begun.folder / "train.json").read_text("utf-8"))["pid"])
    assert os.getsid(leads.pid) == leads.pid != os.getsid(0)

    other = Runs(root)  # as a Studio that was opened later would see it
    seen = until(other, begun.name, lambda run: run.step > 2)
    assert seen.total == 400 * 6
    assert seen.loss
    assert seen.speed
    assert seen.seconds_left
    with pytest.raises(ModelError, match="is running"):
        other.delete(begun.name)
    other.stop(begun.name)
    stopped = until(other, begun.name, lambda run: run.status is not RunStatus.RUNNING)
    assert stopped.status is RunStatus.STOPPED
    assert stopped.checkpoint_steps == (stopped.step,)
    assert stopped.lineage.traces == tuple(f"t{n}" for n in range(12))
    assert stopped.lineage.datasets[0].agents == {"天气助手": 12}

    again = other.resume(begun.name)
    assert again.status is RunStatus.RUNNING
    until(other, begun.name, lambda run: run.step > stopped.step)
    os.kill(json.loads((begun.folder / "train.json").read_text("utf-8"))["pid"], signal.SIGKILL)
    killed = until(other, begun.name, lambda run: run.status is not RunStatus.RUNNING)
    assert killed.status is RunStatus.FAILED
    assert killed.message
    (found,) = other.all()
    assert found.name == begun.name
    other.delete(begun.name)
    assert other.all() == []


def test_a_run_to_the_end_becomes_a_model_and_one_that_cannot_says_why(tiny_model_dir: Path, tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    name = runs.start(recipe(tiny_model_dir, rows(tmp_path / "rows.jsonl"), max_steps=3)).name
    other = runs.start(recipe(tmp_path / "no" / "such" / "model", rows(tmp_path / "more.jsonl"))).name
    with pytest.raises(ModelError, match="complete checkpoint"):
        runs.merged(other)
    done = until(runs, name, lambda run: run.status is not RunStatus.RUNNING)
    assert (done.status, done.step, done.total) == (RunStatus.FINISHED, 3, 3), runs.printed(name)
    failed = until(runs, other, lambda run: run.status is not RunStatus.RUNNING)
    assert failed.status is RunStatus.FAILED
    assert "no model at" in failed.message
    assert [run.name for run in runs.all()][-1] in (name, other)
    merged = runs.merged(name)
    written = (merged / "model.safetensors").stat().st_mtime_ns
    assert runs.merged(name) == merged
    assert (merged / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(ModelError, match="no run"):
        runs.get("../../etc")


def test_nothing_is_left_behind_by_a_run_that_cannot_begin(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    (tmp_path / "bad.jsonl").write_text("{\n", "utf-8")
    for choices in ({}, {"dataset": str(tmp_path / "bad.jsonl")}):
        with pytest.raises(DataError):
            runs.start(Recipe.of(**choices))
    assert runs.all() == []
    assert not runs.root.exists()


@given(st.lists(st.fixed_dictionaries({"step": st.integers(0, 9), "loss": st.floats(0, 9)}), max_size=5), st.data())
def test_half_a_line_of_a_log_is_not_read(tmp_path_factory: pytest.TempPathFactory, log: list[dict[str, float]],
                                          data: st.DataObject) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("log") / "logging.jsonl"
    text = "".join(json.dumps(entry) + "\n" for entry in log)
    at = data.draw(st.integers(0, len(text)))
    path.write_text(text[:at], "utf-8")
    assert list(_read_log(path)) == log[: len(_read_log(path))]
    assert len(_read_log(path)) >= text[:at].count("\n")


def test_lineage_round_trips(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("x", "utf-8")
    lineage = lineage_of([str(rows(tmp_path / "rows.jsonl")), "owner/name", str(tmp_path / "plain.txt")])
    assert [dataset.rows for dataset in lineage.datasets] == [12, 0, 0]
    assert Lineage.from_json(json.loads(json.dumps(lineage.to_json()))) == lineage
