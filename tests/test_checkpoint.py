"""A run cannot be lost: killed anywhere, it goes on to the very same adapter."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from toolweave.errors import Interrupted, ModelError
from toolweave.models.base_models import load
from toolweave.training import checkpoint, sft
from toolweave.training.progress import Best, Progress, best_checkpoint
from toolweave.training.recipe import Recipe
from toolweave.training.sft import TrainResult, train
from toolweave.types import Message, Sample
from toolweave.weights.manifest import broken, replace_folder

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
KILLS = int(os.environ.get("TOOLWEAVE_KILLS", "3"))
SAMPLES = [
    Sample((Message(role="user", content=f"question {i}"),), f"answer {i * i}", meta={"id": f"row-{i}"})
    for i in range(12)
]


def learn(model: Path, run: Path, samples: list[Sample] | None = None, **choices: object) -> TrainResult:
    recipe = Recipe.of(**{"batch_size": 2, "gradient_accumulation_steps": 2, "eval_steps": 2, "lora_dropout_p": 0.1,
                          "num_train_epochs": 2, **choices})  # fmt: skip
    loaded = load(str(model), torch.float32)
    return train(loaded, samples or SAMPLES, run, recipe, "base", validation=SAMPLES[:3])


def adapter(run: Path, step: int) -> bytes:
    return (run / f"checkpoint-{step}" / "adapter_model.safetensors").read_bytes()


def learn_long(model: Path, run: Path, save_steps: int = 1) -> TrainResult:
    """A run of so many steps that every kill finds some left."""
    return learn(model, run, save_steps=save_steps, eval_steps=1000, save_total_limit=3, num_train_epochs=2 + 8 * KILLS)


def newest(run: Path) -> int:
    return max((int(path.name.removeprefix("checkpoint-")) for path in run.glob("checkpoint-*")), default=0)


def test_killed_anywhere_it_ends_in_the_same_adapter(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = learn_long(tiny_model_dir, tmp_path / "whole", save_steps=1000)
    run = tmp_path / "killed"
    # The server imports torch once, by PYTHONPATH; each of its forks is a process of its own, killed for good.
    monkeypatch.setenv("PYTHONPATH", ENVIRONMENT["PYTHONPATH"])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    rng, saving = random.Random(0), 0
    for _ in range(KILLS):
        before = newest(run)
        process = context.Process(target=learn_long, args=(tiny_model_dir, run))
        process.start()
        # Once steps are being made, die at any moment of computing or saving.
        while process.is_alive() and newest(run) <= before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert newest(run) < expected.steps
        saving += bool(list(run.glob(".*")))
    print(f"{KILLS} kills in {newest(run)} of {expected.steps} steps, {saving} of them within a save")
    learn_long(tiny_model_dir, run)
    assert adapter(run, expected.steps) == adapter(tmp_path / "whole", expected.steps)
    assert not list(run.glob(".*"))
    assert all(broken(path) is None for path in run.glob("checkpoint-*"))


def test_what_is_incomplete_or_foreign_is_passed_over(tiny_model_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    steps = learn(tiny_model_dir, run).steps
    expected = adapter(run, steps)
    tensors = run / f"checkpoint-{steps}" / "training.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-7])
    (run / "checkpoint-99").mkdir()
    (run / "checkpoint-99" / "pytorch_model.bin").write_bytes(b"not ours")
    assert learn(tiny_model_dir, run).steps == steps
    assert adapter(run, steps) == expected
    assert (run / "checkpoint-99" / "pytorch_model.bin").exists()


def test_a_named_checkpoint_is_gone_on_from(tiny_model_dir: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    steps = learn(tiny_model_dir, run).steps
    expected = adapter(run, steps)
    logged = (run / "logging.jsonl").read_text("utf-8").splitlines()
    before = {step: (run / f"checkpoint-{step}").stat().st_ino for step in (2, 4)}
    assert learn(tiny_model_dir, run, resume_from_checkpoint=str(run / "checkpoint-2")).steps == steps
    # Were the newest taken, nothing would be left to do.
    changed = [step for step, inode in before.items() if (run / f"checkpoint-{step}").stat().st_ino != inode]
    assert changed == [4]
    assert adapter(run, steps) == expected
    assert len((run / "logging.jsonl").read_text("utf-8").splitlines()) == len(logged)
    with pytest.raises(ModelError, match="is no checkpoint of"):
        learn(tiny_model_dir, run, resume_from_checkpoint=str(tmp_path / "other" / "checkpoint-4"))


KILLED_BETWEEN = """
import os, signal, sys
from pathlib import Path
from toolweave.weights.manifest import replace_folder
rename = Path.rename
def once(source, target):
    rename(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
Path.rename = once
with replace_folder(Path(sys.argv[1])) as draft:
    (draft / "weights").write_text("new")
"""


def test_a_kill_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-1"
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(Progress({}, 1), {}, lambda draft: None)
    killed = subprocess.run([sys.executable, "-c", KILLED_BETWEEN, str(folder)], env=ENVIRONMENT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not folder.exists()
    progress = checkpoints.newest({})
    assert progress is not None
    assert progress.step == 1
    checkpoints.clean()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert broken(folder) is None
    with replace_folder(folder) as draft:
        (draft / "weights").write_text("new")
    assert [path.name for path in folder.iterdir()] == ["weights"]


@pytest.mark.parametrize(
    ("samples", "choices", "message"),
    [(SAMPLES[:-1], {}, "training rows"), (SAMPLES, {"learning_rate": 1e-3}, "learning_rate was 0.002 and is 0.001")],
)
def test_other_data_or_another_recipe_is_refused(
    samples: list[Sample], choices: dict[str, object], message: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    learn(tiny_model_dir, tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ModelError, match=message):
        learn(tiny_model_dir, tmp_path, samples, **choices)
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_rotation_keeps_the_best(tmp_path: Path) -> None:
    checkpoints = checkpoint.Checkpoints(tmp_path, limit=2)
    for step in range(1, 6):
        progress = Progress({}, step, Best(min(step, 2), 0.5))
        checkpoints.save(progress, {"weight:w": torch.zeros(2)}, lambda folder: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]
    assert best_checkpoint(tmp_path).name == "checkpoint-2"


def test_a_full_disk_leaves_the_checkpoints_as_they_were(tmp_path: Path) -> None:
    checkpoints = checkpoint.Checkpoints(tmp_path, limit=1)
    checkpoints.save(Progress({}, 1), {}, lambda folder: None)

    def fill(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ModelError, match="no space left"):
        checkpoints.save(Progress({}, 2), {}, fill)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_a_loss_that_is_no_number_stops_the_run(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = sft._Run._learn, []

    def poisoned(self: sft._Run, number: int, work: sft._Work, asked: bool) -> tuple[float, int, float, bool]:
        calls.append(number)
        if number == 3:
            with torch.no_grad():
                self._weights[0].fill_(torch.nan)
        return real(self, number, work, asked)

    monkeypatch.setattr(sft._Run, "_learn", poisoned)
    with pytest.raises(ModelError, match=r"the loss of step 4 is not a finite number, on the rows row-\d+"):
        learn(tiny_model_dir, tmp_path, save_steps=1)
    assert calls == [0, 1, 2, 3]
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (1, 2, 3)]


def test_ctrl_c_saves_and_the_run_goes_on(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = learn(tiny_model_dir, tmp_path / "whole")
    real = sft._Run._learn
    with monkeypatch.context() as patch:
        patch.setattr(sft._Run, "_learn", lambda self, number, work, asked: real(self, number, work, number == 4))
        with pytest.raises(Interrupted, match="stopped after step 5"):
            learn(tiny_model_dir, tmp_path / "stopped")
    assert learn(tiny_model_dir, tmp_path / "stopped").steps == expected.steps
    assert adapter(tmp_path / "stopped", expected.steps) == adapter(tmp_path / "whole", expected.steps)


def test_a_real_ctrl_c_saves_and_says_how_to_go_on(tiny_model_dir: Path, tmp_path: Path) -> None:
    rows, run = tmp_path / "rows.jsonl", tmp_path / "run"
    rows.write_text("".join(json.dumps(sample.to_json()) + "\n" for sample in SAMPLES), "utf-8")
    command = [
        sys.executable, "-m", "toolweave", "sft", "--dataset", rows, "--model", tiny_model_dir, "--output_dir", run,
        "--add_output_dir_suffix", "false", "--batch_size", "2", "--num_train_epochs", "10000", "--eval_steps", "5000",
    ]  # fmt: skip
    process = subprocess.Popen(list(map(str, command)), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    told = ""
    while "step 2/" not in told and (line := process.stderr.readline()):
        told += line
    process.send_signal(signal.SIGINT)
    told += process.communicate()[1]
    assert process.returncode == 130, told
    assert f"which is saved in {run}/checkpoint-{newest(run)}\n" in told
    assert f"--resume_from_checkpoint {run}\n" in told
    assert broken(run / f"checkpoint-{newest(run)}") is None
    assert "Warning" not in told
    assert "Traceback" not in told
