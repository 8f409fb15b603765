"""Our worker: `train` as `toolweave sft` calls it. A turn is one optimiser step."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from turns import Turns

from toolweave.data.jsonl import read_samples
from toolweave.training.log import LOG_NAME
from toolweave.training.memory import fill_holes
from toolweave.training.recipe import Recipe, Scheduler


def recipe_of(options: dict[str, Any]) -> Recipe:
    """Return the recipe that does what the peers are told to do; `max_steps` is the number of turns."""
    return Recipe.of(
        lora_rank=options["rank"],
        lora_alpha=options["alpha"],
        lora_dropout_p=options["dropout"],
        learning_rate=options["learning_rate"],
        lr_scheduler_type=Scheduler.CONSTANT,
        warmup_ratio=0,
        weight_decay=options["weight_decay"],
        max_grad_norm=options["max_grad_norm"],
        max_length=8192,
        batch_size=options["batch"],
        gradient_accumulation_steps=options["accumulation"],
        num_train_epochs=options["turns"],
        max_steps=options["turns"],
        eval_steps=options["turns"],
    )


def main() -> None:
    options = json.loads(sys.argv[1])
    turns, run = Turns(), Path(options["output"])
    dtype = getattr(torch, options["dtype"])
    if dtype is torch.float32:
        fill_holes()  # before the imports below, which make the first tensors

    from toolweave.models.base_models import load
    from toolweave.training.sft import train

    loaded = load(options["model"], dtype)
    samples = list(read_samples(Path(options["data"]) / "samples.jsonl"))
    register_optimizer_step_post_hook(lambda *_: turns.over())
    train(loaded, samples, run, recipe_of(options), options["model"])
    losses = [json.loads(line)["loss"] for line in (run / LOG_NAME).read_text("utf-8").splitlines()]
    turns.finish(losses, f"toolweave {version('toolweave')}")


if __name__ == "__main__":
    main()
