"""Supervised fine-tuning with LoRA on prefix trees."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from toolweave.errors import ModelError
from toolweave.models.base_models import LoadedModel
from toolweave.training import attention
from toolweave.training.batching import encode, shared_batches, shuffled
from toolweave.training.lora import add_lora
from toolweave.training.loss import tree_loss
from toolweave.training.plots import plot_losses
from toolweave.training.prefix_tree import PrefixTree
from toolweave.training.recipe import Recipe
from toolweave.types import Sample
from toolweave.weights.manifest import Manifest, replace_folder

_ADAM_BETAS = (0.9, 0.95)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run did. Tokens are counted as if nothing were shared, and distinct."""

    adapter: Path
    steps: int
    samples: int
    dropped: int
    nominal_tokens: int
    distinct_tokens: int
    train_loss: float
    eval_loss: float
    seconds: float


def train(loaded: LoadedModel, samples: Sequence[Sample], output_dir: Path, recipe: Recipe, base: str) -> TrainResult:
    """Fine-tune a LoRA adapter and save it to `output_dir/adapter`.

    Beside it: `logging.jsonl`, TensorBoard `runs/`, `images/loss.png`, `sft_args.json`. `base` is
    what the adapter says it belongs to. Raises DataError without usable samples, ModelError when the
    loss is no longer a number.
    """
    started = time.monotonic()
    torch.manual_seed(recipe.seed)
    output_dir.mkdir(parents=True, exist_ok=True)
    data = encode(samples, loaded.template, recipe.max_length)
    held = _hold_back(len(data.samples), recipe)
    train_set = [sample for index, sample in enumerate(data.samples) if index not in held]
    eval_set = [sample for index, sample in enumerate(data.samples) if index in held]
    batches = shared_batches(train_set, recipe.max_tokens_per_batch)
    evals = [PrefixTree.build(batch) for batch in shared_batches(eval_set, recipe.max_tokens_per_batch)]
    model = _adapt(loaded, recipe)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=recipe.learning_rate, betas=_ADAM_BETAS, weight_decay=recipe.weight_decay)
    every = recipe.gradient_accumulation_steps
    total = math.ceil(len(batches) / every) * recipe.num_train_epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _linear(total, recipe.warmup_ratio))
    (output_dir / "sft_args.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")

    log = _Log(output_dir)
    nominal = distinct = step = 0
    eval_loss = train_loss = math.nan
    with log, _progress() as progress:
        bar = progress.add_task("train", total=total, note="")
        for epoch in range(recipe.num_train_epochs):
            order = shuffled(batches, recipe.seed, epoch)
            for first in range(0, len(order), every):
                trees = [PrefixTree.build(batch) for batch in order[first : first + every]]
                train_loss = _backward(model, trees)
                if not math.isfinite(train_loss):
                    raise ModelError(f"the loss of step {step + 1} is not a number", "lower --learning_rate")
                norm = torch.nn.utils.clip_grad_norm_(weights, recipe.max_grad_norm)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                step += 1
                nominal += sum(tree.nominal for tree in trees)
                distinct += sum(len(tree.tokens) for tree in trees)
                rate = float(schedule.get_last_lr()[0])
                entry = {"loss": train_loss, "grad_norm": float(norm), "learning_rate": rate}
                if evals and (step % recipe.eval_steps == 0 or step == total):
                    eval_loss = _evaluate(model, evals)
                    entry["eval_loss"] = eval_loss
                if step % recipe.logging_steps == 0 or "eval_loss" in entry:
                    speed = nominal / (time.monotonic() - started)
                    log.write(step, {**entry, "epoch": first / len(order) + epoch, "tokens_per_second": speed})
                progress.update(bar, advance=1, note=f"loss {train_loss:.3f}")
    plot_losses(output_dir / "logging.jsonl", output_dir / "images" / "loss.png")
    adapter = output_dir / "adapter"
    with replace_folder(adapter) as folder:
        model.save_pretrained(str(folder))
        loaded.template.tokenizer.save_pretrained(str(folder))
        Manifest(base=base, template_hash=loaded.template.hash, dialects=_dialects(samples)).save(folder)
    return TrainResult(
        adapter=adapter,
        steps=step,
        samples=len(train_set),
        dropped=data.too_long,
        nominal_tokens=nominal,
        distinct_tokens=distinct,
        train_loss=train_loss,
        eval_loss=eval_loss,
        seconds=time.monotonic() - started,
    )


def _adapt(loaded: LoadedModel, recipe: Recipe) -> PeftModel:
    loaded.model.set_attn_implementation(attention.NAME)
    config = LoraConfig(
        r=recipe.lora_rank,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout_p,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return add_lora(loaded.model, config)


def _backward(model: PeftModel, trees: Sequence[PrefixTree]) -> float:
    """Accumulate the gradients of one step and return its loss per label."""
    model.train()
    labels = sum(float(tree.label_weight.sum()) for tree in trees)
    total = 0.0
    for tree in trees:
        loss = tree_loss(model, tree) / labels
        loss.backward()
        total += float(loss.detach())
    return total


def _hold_back(count: int, recipe: Recipe) -> set[int]:
    wanted = round(count * recipe.dataset_test_ratio)
    return set(random.Random(recipe.seed).sample(range(count), min(wanted, count - 1)))


def _linear(total: int, warmup_ratio: float) -> Any:
    warmup = max(1, round(total * warmup_ratio))

    def scale(step: int) -> float:
        return (step + 1) / warmup if step < warmup else max(0.0, (total - step) / max(1, total - warmup))

    return scale


def _dialects(samples: Sequence[Sample]) -> tuple[str, ...]:
    return tuple(sorted({sample.meta["dialect"] for sample in samples if "dialect" in sample.meta}))


@torch.no_grad()
def _evaluate(model: PeftModel, trees: Sequence[PrefixTree]) -> float:
    model.eval()
    labels = sum(float(tree.label_weight.sum()) for tree in trees)
    return sum(float(tree_loss(model, tree)) for tree in trees) / labels


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip


class _Log:
    """`logging.jsonl` and TensorBoard, written together."""

    def __init__(self, output_dir: Path) -> None:
        self._file = (output_dir / "logging.jsonl").open("w", encoding="utf-8")
        self._board = SummaryWriter(str(output_dir / "runs"))

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._board.close()

    def write(self, step: int, values: dict[str, float]) -> None:
        rounded = {name: float(f"{value:.6g}") for name, value in values.items()}
        self._file.write(json.dumps({"step": step, **rounded}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
