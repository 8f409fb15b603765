"""One recipe behind flags and YAML; the published command line means what it meant."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from toolweave import cli
from toolweave.data.strategy import Strategy
from toolweave.errors import ToolweaveError
from toolweave.training import layout
from toolweave.training.plan import Plan
from toolweave.training.prefix_tree import Encoded
from toolweave.training.recipe import Metric, Recipe, RunPart, read_config, write_config

PUBLISHED = """--model_id_or_path {model} --model_revision master --sft_type lora --tuner_backend swift --dtype AUTO
 --output_dir {output} --custom_train_dataset_path {first} {second} --train_dataset_mix_ratio 2.0
 --train_dataset_sample -1 --num_train_epochs 2 --max_length 2048 --check_dataset_strategy warning --lora_rank 8
 --lora_alpha 32 --lora_dropout_p 0.05 --lora_target_modules ALL --self_cognition_sample 30 --model_name 卡卡罗特
 --gradient_checkpointing true --batch_size 2 --weight_decay 0.01 --learning_rate 5e-5
 --gradient_accumulation_steps 0 --max_grad_norm 0.5 --warmup_ratio 0.03 --eval_steps 100 --save_steps 100
 --save_total_limit 2 --logging_steps 10"""
ROW = {"messages": [{"role": "user", "content": "hi"}], "completion": "Hello!"}


def write_rows(path: Path, count: int) -> Path:
    rows = [{"messages": [{"role": "user", "content": f"question {i}"}], "completion": f"{i}!"} for i in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_the_published_command_trains(tiny_model_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, second = write_rows(tmp_path / "a.jsonl", 6), write_rows(tmp_path / "b.jsonl", 4)
    output = tmp_path / "output"
    words = PUBLISHED.format(model=tiny_model_dir, output=output, first=first, second=second).split()
    cli_run(["sft", *words, "--max_steps", "20"])
    out = capfd.readouterr().out
    (run,) = (output / layout.model_type(str(tiny_model_dir))).iterdir()
    assert run.name.startswith("v0-")
    # 8 rows, as one of each file is held back, 2 chats a row, and 30 about itself
    assert "20 steps on 54 samples (0 dropped)" in out
    assert f"best_model_checkpoint: {run}/checkpoint-20\n" in out
    assert f"images_dir: {run}/images\n" in out
    assert "End time of running main: 20" in out
    assert json.loads((run / "sft_args.json").read_text("utf-8"))["model_name"] == ["卡卡罗特"]
    assert {"loss.png", "learning_rate.png"} <= {path.name for path in (run / "images").iterdir()}
    assert list((run / "runs").iterdir())
    logged = [json.loads(line) for line in (run / "logging.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in logged] == [10, 20]
    assert logged[0]["learning_rate"] <= 5e-5


def cli_run(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code in (0, None)


def test_yaml_and_flags_are_one_recipe(tmp_path: Path) -> None:
    recipe = Recipe.of(dataset=["a", "b"], learning_rate="5e-5", batch_size="2", gradient_checkpointing="true")
    write_config(recipe, tmp_path / "sft_args.json")
    assert Recipe.of(**read_config(tmp_path / "sft_args.json")) == recipe
    (tmp_path / "recipe.yaml").write_text("model_id_or_path: m\ncustom_train_dataset_path: [a, b]\nbatch_size: 2\n")
    assert Recipe.of(**read_config(tmp_path / "recipe.yaml")) == Recipe.of(model="m", dataset=("a", "b"), batch_size=2)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"lora_rnk": 8}, "did you mean lora_rank"),
        ({"lora_rank": 0}, "--lora_rank must be above 0, not 0"),
        ({"lora_rank": "x"}, "--lora_rank cannot be 'x'"),
        ({"dataset_test_ratio": 1}, "--dataset_test_ratio must be below 1"),
        ({"sft_type": "full"}, "--sft_type must be 'lora'"),
        ({"tuner_backend": "unsloth"}, "--tuner_backend must be 'swift' or 'peft'"),
        ({"model_name": ["a", "b", "c"]}, "--model_name cannot be"),
        ({"model": "a", "model_id_or_path": "b"}, "given twice"),
        ({"learning_rate": "nan"}, "--learning_rate"),
    ],
)
def test_mistakes_name_the_flag(choices: dict[str, object], message: str) -> None:
    with pytest.raises(ToolweaveError, match=message):
        Recipe.of(**choices)


def test_an_unknown_flag_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["sft", "--lora_rnk", "8"])
    assert stop.value.code == 2
    assert "--lora_rank" in capsys.readouterr().err


def test_defaults_of_swift() -> None:
    recipe = Recipe.of(metric_for_best_model="visits", check_dataset_strategy="error")
    assert (recipe.run.metric_for_best_model, recipe.data.check_dataset_strategy) == (Metric.VISITS, Strategy.ERROR)
    assert Recipe.of(batch_size=2).optim.micro_batches(8) == 8
    assert Recipe.of(batch_size=1).optim.micro_batches(1) == 16
    assert Recipe.of(batch_size=2, gradient_accumulation_steps="0").optim.micro_batches(8) == 8
    assert Recipe.of().optim.micro_batches(2) == 2


@pytest.mark.parametrize(("scheduler", "middle"), [("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)])
def test_the_learning_rate_rises_then_falls(scheduler: str, middle: float) -> None:
    optim = Recipe.of(lr_scheduler_type=scheduler, learning_rate=1, batch_size=1, gradient_accumulation_steps=1).optim
    plan = Plan.of([Encoded((index, 1), 1) for index in range(100)], optim, world=1)
    rates = [plan.learning_rate(step) for step in range(plan.total)]
    assert rates[:4] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert math.isclose(rates[51], middle, abs_tol=0.02)
    assert all(0 < rate <= 1 for rate in rates)


def test_runs_are_numbered_and_found_again(tmp_path: Path) -> None:
    run = RunPart(output_dir=tmp_path)
    first = layout.choose_run(run, "qwen/Qwen-7B-Chat")
    assert first.parent.name == "qwen-7b-chat"
    assert first.name.startswith("v0-")
    first.mkdir(parents=True)
    assert layout.choose_run(run, "qwen/Qwen-7B-Chat").name.startswith("v1-")
    auto = RunPart(output_dir=tmp_path, resume_from_checkpoint="auto")
    assert layout.choose_run(auto, "qwen/Qwen-7B-Chat") == first
    with pytest.raises(ToolweaveError, match="no checkpoint at"):
        layout.choose_run(RunPart(resume_from_checkpoint=str(tmp_path / "none")), "m")
