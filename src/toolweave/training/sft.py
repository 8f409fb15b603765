"""Supervised fine-tuning with LoRA on prefix trees, on one process or many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from rich.console import Console
from torch import Tensor, nn

from toolweave.data.strategy import Strategy
from toolweave.errors import DataError, Interrupted, ModelError
from toolweave.models.base_models import LoadedModel
from toolweave.training import attention
from toolweave.training.batching import shared_batches
from toolweave.training.checkpoint import Checkpoints, collect, restore
from toolweave.training.distributed import Workers, joined
from toolweave.training.layout import named_checkpoint
from toolweave.training.lean import make_lean
from toolweave.training.log import LOG_NAME, RunLog
from toolweave.training.lora import add_lora, pack_frozen
from toolweave.training.memory import forget_shapes
from toolweave.training.plan import Plan, fingerprint, labels
from toolweave.training.plots import plot_run
from toolweave.training.prefix_tree import Encoded, PrefixTree
from toolweave.training.progress import Best, Progress
from toolweave.training.recipe import LoraPart, ModelPart, Recipe, write_config
from toolweave.training.rows import Dropped, Row, Rows, prepare, row_id
from toolweave.training.stopping import StopRequest
from toolweave.types import Sample
from toolweave.weights.manifest import Manifest

_ADAM_BETAS = (0.9, 0.95)
Judge = Callable[[Path], float]
"""Tells how good the adapter in a folder is; more is better."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run did. Tokens are counted as if nothing were shared, and distinct. `adapter` is the best checkpoint."""

    adapter: Path
    last: Path
    images: Path
    steps: int
    samples: int
    dropped: int
    nominal_tokens: int
    distinct_tokens: int
    train_loss: float
    eval_loss: float
    seconds: float


@dataclass(frozen=True, slots=True)
class _Work:
    """One process's part of one step: trees with their weight, and the label count of the whole step."""

    batches: Sequence[list[Encoded]]
    trees: Sequence[tuple[PrefixTree, float]]
    labels: int


def train(
    loaded: LoadedModel,
    samples: Sequence[Sample],
    run: Path,
    recipe: Recipe,
    base: str,
    *,
    validation: Sequence[Sample] = (),
    unread: Sequence[Dropped] = (),
    workers: Workers | None = None,
    judge: Judge | None = None,
) -> TrainResult:
    """Fine-tune a LoRA adapter; checkpoints, log, report of rows left out and pictures go to the folder `run`.

    When `run` holds checkpoints, the one that the recipe names, else the newest complete one, is gone on
    from. `base` is what the adapter says it belongs to; `unread` are rows that reading left out. `judge`, if
    given, decides which checkpoint is the best, else the evaluation loss does. Raises DataError without
    usable samples, ModelError when the loss is no longer a number or the checkpoints belong to other data or
    another recipe, Interrupted when it was stopped and saved.
    """
    if workers is None:
        with joined() as alone:
            return train(
                loaded, samples, run, recipe, base, validation=validation, unread=unread, workers=alone, judge=judge
            )
    forget_shapes()
    data = recipe.data
    rows = prepare(samples, loaded.template, data.max_length, data.check_dataset_strategy)
    rows = replace(rows, dropped=(*unread, *rows.dropped))
    held = prepare(validation, loaded.template, data.max_length, data.check_dataset_strategy)
    if not rows.kept:
        raise DataError("no sample to train on", "give --dataset a file that holds some")
    return _Run(loaded, rows, held, run, recipe, base, workers, judge).to_the_end()


def base_name(base: ModelPart) -> str:
    """Return what an adapter calls its base, so that it is found from anywhere: an absolute path, or id@revision."""
    if Path(base.model).exists():
        return str(Path(base.model).resolve())
    return f"{base.model}@{base.model_revision}" if base.model_revision and "/" in base.model else base.model


class _Run:
    """The state of one run, and its steps."""

    def __init__(
        self, loaded: LoadedModel, rows: Rows, held: Rows, run: Path, recipe: Recipe, base: str, workers: Workers,
        judge: Judge | None,
    ) -> None:  # fmt: skip
        self._loaded, self._rows, self._held, self._recipe, self._base = loaded, rows, held, recipe, base
        self._folder, self._workers, self._judge = run, workers, judge
        optim = recipe.optim
        self._plan = Plan.of(rows.encoded, optim, workers.count)
        self._evals = [PrefixTree.build(batch) for batch in shared_batches(held.encoded, optim.max_tokens_per_batch)]
        torch.manual_seed(optim.seed)
        self._model = adapt(loaded, recipe.lora)
        if optim.gradient_checkpointing:
            _checkpoint_activations(self._model)
        self._module, self._optimizer = workers.adopt(
            self._model,
            lambda weights: torch.optim.AdamW(
                weights, lr=optim.learning_rate, betas=_ADAM_BETAS, weight_decay=optim.weight_decay
            ),
            optim.max_grad_norm,
        )
        self._weights = [weight for weight in self._model.parameters() if weight.requires_grad]
        self._checkpoints = Checkpoints(run, recipe.run.save_total_limit)
        self._progress = self._resumed()

    def to_the_end(self) -> TrainResult:
        """Train until the last step and draw the pictures."""
        if self._workers.is_first:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._checkpoints.clean()
            write_config(self._recipe, self._folder / "sft_args.json")
            both = Rows((), self._rows.shortened + self._held.shortened, self._rows.dropped + self._held.dropped)
            both.save_report(self._folder / "dropped.jsonl")
            if self._recipe.data.check_dataset_strategy is Strategy.WARNING:
                both.show_dropped(Console(stderr=True, soft_wrap=True))
            with RunLog(self._folder, self._progress.step, self._plan.total) as log:
                self._steps(log)
            plot_run(self._folder / LOG_NAME, self._folder / "images")
        else:
            self._steps(None)
        done = self._progress
        last = self._checkpoints.path(done.step)
        return TrainResult(
            adapter=self._checkpoints.path(done.best.step) if done.best else last,
            last=last,
            images=self._folder / "images",
            steps=done.step,
            samples=len(self._rows.kept),
            dropped=len(self._rows.dropped) + len(self._held.dropped),
            nominal_tokens=done.nominal,
            distinct_tokens=done.distinct,
            train_loss=math.nan if done.train_loss is None else done.train_loss,
            eval_loss=math.nan if done.eval_loss is None else done.eval_loss,
            seconds=done.seconds,
        )

    def _steps(self, log: RunLog | None) -> None:
        run, total = self._recipe.run, self._plan.total
        save_steps = run.save_steps or run.eval_steps
        before, started = self._progress.seconds, time.monotonic()
        first = self._progress.step
        if first == total:
            return
        with StopRequest() as stop:
            for number in range(first, total):
                # Not beside the step before: once a second thread has used OpenMP, those of the first sleep between
                # products instead of waiting awake, which costs more than a fifth of the speed.
                work = self._work(number)
                loss, distinct, norm, asked = self._learn(number, work, stop.asked)
                last, step = number + 1 == total, number + 1
                seconds = before + time.monotonic() - started
                nominal = self._progress.nominal + sum(len(s.ids) for batch in work.batches for s in batch)
                self._progress = replace(
                    self._progress, step=step, train_loss=loss, seconds=seconds, nominal=nominal,
                    distinct=self._progress.distinct + distinct,
                )  # fmt: skip
                entry = {"loss": loss, "grad_norm": norm, "learning_rate": self._plan.learning_rate(number)}
                evaluated = last or step % run.eval_steps == 0
                better = self._evaluate(entry) if evaluated else False
                if log:
                    log.advance(step, loss)
                    if evaluated or step % run.logging_steps == 0:
                        speed = self._progress.nominal / seconds
                        told = {"epoch": step / self._plan.per_epoch, "tokens_per_second": speed, "seconds": seconds}
                        log.write(step, {**entry, **told})
                if better or last or asked or step % save_steps == 0:
                    self._save()
                if asked and not last:
                    raise Interrupted(
                        f"stopped after step {step} of {total}, which is saved in {self._checkpoints.path(step)}",
                        f"go on with the same command and --resume_from_checkpoint {self._folder}",
                    )

    def _work(self, number: int) -> _Work:
        batches = self._plan.step(number)
        trees = [(PrefixTree.build(batch), weight) for batch, weight in self._workers.mine(batches)]
        return _Work(batches, trees, sum(labels(batch) for batch in batches))

    def _learn(self, number: int, work: _Work, asked: bool) -> tuple[float, int, float, bool]:
        """Take one step; return its loss per label, distinct tokens, gradient norm, and whether to stop after it."""
        workers = self._workers
        # Dropout is a function of seed, step and process, so that a resumed run draws the same.
        torch.manual_seed((self._recipe.optim.seed << 40) + (number << 16) + workers.rank)
        self._module.train()
        for group in self._optimizer.param_groups:
            group["lr"] = self._plan.learning_rate(number)
        losses: list[Tensor] = []
        for index, (tree, weight) in enumerate(work.trees):
            with workers.accumulate(last=index + 1 == len(work.trees)):
                losses.append(self._add_gradients(tree, weight / work.labels))
        own = float(torch.stack(losses).sum())
        distinct = sum(len(tree.tokens) for tree, weight in work.trees if weight)
        total, all_distinct, stops = workers.sum(own, distinct, asked)
        norm = workers.clip(self._weights, self._recipe.optim.max_grad_norm)
        if not math.isfinite(total) or not math.isfinite(norm):
            self._refuse(number, work, losses, total)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return total, round(all_distinct), norm, stops > 0

    def _add_gradients(self, tree: PrefixTree, weight: float) -> Tensor:
        """Return the loss of a tree, whose graph ends here: its remains would lie between the next one's tensors."""
        loss = self._module(self._workers.placed(tree)) * weight
        self._workers.backward(loss)
        return cast(Tensor, loss.detach())

    def _refuse(self, number: int, work: _Work, losses: Sequence[Tensor], total: float) -> None:
        """Stop before a step that would ruin the weights, naming the micro-batches at fault."""
        bad = [index for index, loss in enumerate(losses) if not math.isfinite(float(loss))]
        own = [work.batches[self._workers.rank :: self._workers.count][index] for index in bad]
        names = self._workers.gather(self._names(sample for batch in own for sample in batch))
        what = "loss" if not math.isfinite(total) else "gradient"
        if not names:
            names = self._names(sample for batch in work.batches for sample in batch)
        saved = self._checkpoints.path(self._progress.best.step) if self._progress.best else None
        raise ModelError(
            f"the {what} of step {number + 1} is not a finite number, on the rows {', '.join(names)}",
            "lower --learning_rate, or look at these rows with --audit"
            + (f"; the checkpoints are as they were, the best is {saved}" if saved else ""),
        )

    def _names(self, samples: Any) -> list[str]:
        names: dict[Encoded, list[str]] = {}
        for row in self._rows.kept:
            names.setdefault(row.encoded, []).append(row_id(row.sample))
        return [name for sample in samples for name in names[sample]]

    def _evaluate(self, entry: dict[str, float]) -> bool:
        """Add the evaluation to a step's log entry; tell whether this is the best so far."""
        value: float | None = None
        if self._evals:
            value = entry["eval_loss"] = self._eval_loss()
            self._progress = replace(self._progress, eval_loss=value)
        if self._judge is not None:
            visits = self._judged(self._judge)
            entry["eval_visits"], value = visits, -visits
        best = self._progress.best
        if value is None or not math.isfinite(value) or (best is not None and value >= best.value):
            return False
        self._progress = replace(self._progress, best=Best(self._progress.step, value))
        return True

    @torch.no_grad()
    def _eval_loss(self) -> float:
        self._module.eval()
        total = 0.0
        for tree, weight in self._workers.mine(self._evals):
            total += float(self._module(self._workers.placed(tree))) * weight
        return self._workers.sum(total)[0] / sum(labels([row.encoded]) for row in self._held.kept)

    def _judged(self, judge: Judge) -> float:
        """Return what the first process's judge says of the adapter as it is now."""
        tensors = collect(self._model, self._optimizer)
        value = 0.0
        if self._workers.is_first:
            with TemporaryDirectory(prefix=".judged-", dir=self._folder) as folder:
                self._write_adapter(Path(folder), tensors)
                value = judge(Path(folder))
        return float(self._workers.agree(value))

    def _save(self) -> None:
        tensors = collect(self._model, self._optimizer)
        if self._workers.is_first:
            self._checkpoints.save(self._progress, tensors, lambda folder: self._write_adapter(folder, tensors))

    def _write_adapter(self, folder: Path, tensors: Mapping[str, Tensor]) -> None:
        prefix = "weight:"
        weights = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        self._model.save_pretrained(str(folder), state_dict=weights)
        # PEFT's model card is a form that nobody filled in.
        (folder / "README.md").unlink(missing_ok=True)
        template = self._loaded.template
        template.tokenizer.save_pretrained(str(folder))
        Manifest(base=self._base, template_hash=template.hash, dialects=_dialects(self._rows.kept)).save(folder)

    def _resumed(self) -> Progress:
        identity = self._identity()
        only = named_checkpoint(self._recipe.run)
        progress = self._checkpoints.newest(identity, only) if self._workers.is_first else None
        progress = cast(Progress | None, self._workers.agree(progress))
        if progress is None:
            return Progress(identity)
        restore(self._model, self._optimizer, self._checkpoints.tensors(progress.step))
        return progress

    def _identity(self) -> dict[str, Any]:
        optim = self._recipe.optim.model_dump(mode="json", exclude={"gradient_accumulation_steps"})
        return {
            "base model": self._base,
            "chat template": self._loaded.template.hash,
            "dtype": str(self._loaded.model.dtype).removeprefix("torch."),
            "training rows": fingerprint(self._rows.encoded),
            "micro-batches of a step": self._plan.width,
            **self._recipe.lora.model_dump(mode="json", exclude={"sft_type", "tuner_backend"}),
            **optim,
        }


def adapt(loaded: LoadedModel, lora: LoraPart) -> PeftModel:
    """Return the model as it is trained: tree attention, lean layers, adapters, packed weights.

    Raises ModelError for unknown names.
    """
    loaded.model.set_attn_implementation(attention.NAME)
    make_lean(loaded.model)
    config = LoraConfig(
        r=lora.lora_rank,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout_p,
        target_modules=_targets(loaded.model, lora),
        task_type="CAUSAL_LM",
    )
    model = add_lora(loaded.model, config)
    if not torch.accelerator.is_available():  # with one, the model leaves the CPU after this
        pack_frozen(model)
    return model


def _targets(model: nn.Module, lora: LoraPart) -> str | list[str]:
    """Return what PEFT calls the layers. Raises ModelError for a name that no linear layer has."""
    wanted = lora.lora_target_modules
    if any(name.upper() == "ALL" for name in wanted):
        return "all-linear"
    known = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ModelError(
            f"--lora_target_modules: no linear layer is named {', '.join(unknown)}",
            f"choose ALL, or from {', '.join(sorted(known))}",
        )
    return list(wanted)


def _checkpoint_activations(model: PeftModel) -> None:
    base = model.get_base_model()
    cast(Any, base).activation_checkpointing_enable({"use_reentrant": False})


def _dialects(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(sorted({row.sample.meta["dialect"] for row in rows if "dialect" in row.sample.meta}))
