"""The command line: help with examples, and one clean message for what a user can mend."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toolweave import cli
from toolweave.data import convert as conversion
from toolweave.training.recipe import flags

COMMANDS = (["data", "convert"], ["sft"], ["export"], ["deploy"], ["demo"])
ROW = {"conversations": [{"from": "user", "value": "hi"}, {"from": "assistant", "value": "Hello!"}]}


class Outcome:
    """Exit code and output of one run."""

    def __init__(self, code: object, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a command line in this process."""
    monkeypatch.setenv("COLUMNS", "200")

    def run_(*arguments: str) -> Outcome:
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        return Outcome(stop.value.code or 0, *capsys.readouterr())

    return run_


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example(command: list[str], run: Any) -> None:
    outcome = run(*command, "--help")
    assert outcome.code == 0
    assert f"Example: toolweave {' '.join(command)}" in outcome.out


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, toolweave.cli; print([m for m in ('torch', 'transformers', 'fastapi') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout == "[]\n"


def test_sft_has_an_option_for_every_field_of_the_recipe(run: Any) -> None:
    shown = run("sft", "--help").out
    assert all(f"--{name}" in shown for name, _, _ in flags())


def test_convert(tmp_path: Path, run: Any) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps(ROW) + "\noops\n", "utf-8")
    strict = run("data", "convert", "--from", "ms_agent", str(source), str(target))
    assert strict.code == 2
    assert strict.err.startswith(f"error: {source}, line 2: not JSON")
    assert "hint: " in strict.err
    assert "Traceback" not in strict.err
    assert not target.exists()
    lenient = run("data", "convert", str(source), str(target), "--strategy", "warning", "--dialect", "v07")
    assert lenient.code == 0
    assert "1 samples with 0 calls and 1 turns, from 1 of 2 rows, 1 left out" in lenient.out
    assert "line 2: left out: not JSON" in lenient.err
    assert json.loads(target.read_text("utf-8"))["completion"] == "Hello!"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "convert", "none.jsonl", "out.jsonl"], "error: no such file: none.jsonl"),
        (["data", "convert", "a", "b", "--from", "csv"], "error: unknown format 'csv'"),
        (["data", "convert", "a", "b", "--dialect", "v08"], "error: unknown dialect 'v08'"),
        (["sft", "--dataset", "none.jsonl", "--output_dir", "o"], "error: no such file: none.jsonl"),
        (["sft", "--dataset", "a", "--output_dir", "o", "--lora_rank", "0"], "error: --lora_rank must be above 0"),
        (
            ["sft", "--dataset", "a", "--output_dir", "o", "--lora_rank", "x"],
            "error: --lora_rank cannot be 'x': a valid integer",
        ),
        (["export", "--ckpt_dir", "c", "--merge_lora", "false"], "error: --merge_lora false leaves nothing"),
        (["deploy", "--ckpt_dir", "c", "--port", "70000"], "Invalid value for '--port'"),
        (["deploy"], "Missing option '--ckpt_dir'"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_mistakes_end_with_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run(*arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted: run the same command again to go on\n"),
        (OSError(errno.ENOSPC, "No space left on device", "model.safetensors"), 2, "error: no space left on the disk"),
    ],
)
def test_interruption_and_full_disk(
    error: BaseException, code: int, message: str, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(conversion, "convert", fail)
    outcome = run("data", "convert", "a", "b")
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.startswith(message)


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "a bug")

    monkeypatch.setattr(conversion, "convert", fail)
    with pytest.raises(PermissionError):
        cli.main(["data", "convert", "a", "b"])


def test_dataset_takes_several_files_as_in_swift(tmp_path: Path, run: Any) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text('{"messages": [{"role": "user", "content": "hi"}], "completion": "Hello!"}\n', "utf-8")
    second.write_text("{}\n", "utf-8")
    outcome = run("sft", "--output_dir", str(tmp_path / "o"), "--dataset", str(first), str(second), "--seed", "3")
    assert outcome.code == 2
    assert f"error: {second}: no known format" in outcome.err
    assert not (tmp_path / "o").exists()


def test_python_dash_m() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "toolweave", "data", "convert", "none.jsonl", "out.jsonl"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: no such file: none.jsonl\n  hint: check the path; it is taken from the current folder\n"
    )
