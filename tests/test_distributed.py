"""Two processes, sharded or not, learn what one does with the same global batch, and notice when one dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(sys.path),
    "OMP_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
}


def write_rows(path: Path, count: int) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": f"question {i}"}], "completion": f"{i * i}"} for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


FSDP = """\
distributed_type: FSDP
mixed_precision: 'no'
num_machines: 1
num_processes: 2
machine_rank: 0
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_transformer_layer_cls_to_wrap: LlamaDecoderLayer
"""


def command(processes: int, *arguments: str | Path) -> list[str]:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [*launcher, "-m", "toolweave.sft", *words(*arguments)]


def sharded(config: Path, *arguments: str | Path) -> list[str]:
    config.write_text(FSDP, "utf-8")
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(config)]
    return [sys.executable, *launcher, str(Path(__file__).with_name("fsdp_on_cpu.py")), *words(*arguments)]


def words(*arguments: str | Path) -> list[str]:
    return ["--add_output_dir_suffix", "false", "--dtype", "fp32", *map(str, arguments)]


def test_two_processes_learn_what_one_does(tiny_model_dir: Path, tmp_path: Path) -> None:
    # 11 rows are left to learn, 4 a step: the last step does not divide among two processes, nor do the 3 held back.
    data = write_rows(tmp_path / "rows.jsonl", 14)
    logs, adapters = [], []

    def arguments(run: str, accumulation: int) -> tuple[str | Path, ...]:
        return (
            "--dataset", data, "--model", tiny_model_dir, "--output_dir", tmp_path / run, "--dataset_test_ratio", "0.2",
            "--batch_size", "1", "--gradient_accumulation_steps", str(accumulation), "--eval_steps", "2",
        )  # fmt: skip

    jobs = {
        "alone": command(1, *arguments("alone", 4)),
        "two": command(2, *arguments("two", 2)),
        "sharded": sharded(tmp_path / "fsdp.yaml", *arguments("sharded", 2)),
    }
    for name, job in jobs.items():
        run, environment = tmp_path / name, {**ENVIRONMENT, "ACCELERATE_TORCH_DEVICE": "cpu"}
        done = subprocess.run(job, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("best_model_checkpoint:") == 1
        logs.append([json.loads(line) for line in (run / "logging.jsonl").read_text("utf-8").splitlines()])
        adapters.append(load_file(run / f"checkpoint-{logs[-1][-1]['step']}" / "adapter_model.safetensors"))
    assert [line["step"] for line in logs[0]] == [1, 2, 3]
    for log, adapter in zip(logs[1:], adapters[1:], strict=True):
        for one, other in zip(logs[0], log, strict=True):
            assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
            assert one.keys() == other.keys()
            assert one.get("eval_loss", 0.0) == pytest.approx(other.get("eval_loss", 0.0), rel=1e-5)
        for name, weight in adapters[0].items():
            torch.testing.assert_close(adapter[name], weight, rtol=1e-5, atol=1e-5)


def test_a_killed_process_ends_the_job(tiny_model_dir: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "rows.jsonl", 200)
    run = tmp_path / "run"
    arguments = ("--dataset", data, "--model", tiny_model_dir, "--output_dir", run, "--batch_size", "1",
                 "--gradient_accumulation_steps", "1", "--num_train_epochs", "500", "--eval_steps", "5")  # fmt: skip
    job = subprocess.Popen(command(2, *arguments), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    try:
        while job.poll() is None and not list(run.glob("checkpoint-*")):
            time.sleep(0.05)
        workers = [
            child for child in psutil.Process(job.pid).children() if "toolweave.sft" in " ".join(child.cmdline())
        ]
        workers[-1].send_signal(signal.SIGKILL)
        _, told = job.communicate(timeout=60)
    finally:
        job.kill()
    assert job.returncode
    assert "SIGKILL" in told or "another process of the job is gone" in told
