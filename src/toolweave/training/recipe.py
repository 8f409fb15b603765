"""The training recipe: every choice of a fine-tune, typed and checked, under SWIFT's names.

A `Recipe` is five small parts. Command line and YAML use the flat names of their fields, so there is
one spelling of each choice, and `sft_args.json` of a run can be read back as `--config`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic.fields import FieldInfo

from toolweave.data.json_files import write_json
from toolweave.data.strategy import Strategy
from toolweave.errors import DataError, ToolweaveError

# SWIFT spells these two ways; both name the same field.
ALIASES = {
    "model_id_or_path": "model",
    "custom_train_dataset_path": "dataset",
    "custom_val_dataset_path": "val_dataset",
}
_SWIFT_GLOBAL_BATCH = 16


class Dtype(StrEnum):
    """In what the base computes; AUTO is bf16 where the hardware multiplies it fast, else fp16 (GPU) or fp32 (CPU)."""

    AUTO = "AUTO"
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


class Metric(StrEnum):
    """What makes a checkpoint the best: the lowest evaluation loss, or the most selection visits done right."""

    LOSS = "loss"
    VISITS = "visits"


class SftType(StrEnum):
    """What is trained. toolweave trains LoRA adapters only."""

    LORA = "lora"


class TunerBackend(StrEnum):
    """Who makes the adapter. Both names mean PEFT's LoRA, whose files every server reads."""

    SWIFT = "swift"
    PEFT = "peft"


class Scheduler(StrEnum):
    """How the learning rate falls after the warm-up."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class ModelPart(_Part):
    """Which model is tuned."""

    model: str = "embedded"
    """Base model: folder, GGUF file, Hugging Face or ModelScope id, embedded, or embedded-tools."""
    model_revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: Dtype = Dtype.AUTO
    """In what the base computes: AUTO, bf16, fp16 or fp32."""


class DataPart(_Part):
    """What is learned."""

    dataset: tuple[str, ...] = ()
    """Files, folders and hub ids (owner/name, HF::, MS::) of the training rows, in any format of data convert."""
    val_dataset: tuple[str, ...] = ()
    """Files and hub ids of the evaluation rows; --dataset_test_ratio is then unused."""
    dialect: str = "v06"
    """Prompt format that conversations are rendered in: v06 or v07."""
    dataset_test_ratio: float = Field(default=0.01, ge=0, lt=1)
    """Share of each data set held back for the evaluation loss, before anything is mixed in."""
    train_dataset_sample: int = Field(default=-1, ge=-1)
    """How many training rows to draw; -1 takes all."""
    train_dataset_mix_ratio: float = Field(default=0.0, ge=0)
    """Rows of general chat for each training row, mixed in so that the model can still just talk."""
    mix_dataset: tuple[str, ...] = ()
    """Files and hub ids of the general chat; the embedded chats if not given."""
    self_cognition_sample: int = Field(default=0, ge=0)
    """Rows about the model itself, answered as --model_name by --model_author."""
    model_name: tuple[str, ...] = Field(default=("toolweave",), min_length=1, max_length=2)
    """Name of the tuned model: one, or a Chinese and an English one."""
    model_author: tuple[str, ...] = Field(default=("toolweave",), min_length=1, max_length=2)
    """Who made it: one name, or a Chinese and an English one."""
    check_dataset_strategy: Strategy = Strategy.WARNING
    """Bad rows, in reading and in training: discard, discard and say so (warning), stop (error), or no check (none)."""
    max_length: int = Field(default=2048, gt=0)
    """Most tokens of a row. Longer rows get their old observations shortened, else are dropped and reported."""


class LoraPart(_Part):
    """The adapter."""

    sft_type: SftType = SftType.LORA
    """What is trained: lora."""
    tuner_backend: TunerBackend = TunerBackend.PEFT
    """Who makes the adapter: peft; swift means the same."""
    lora_rank: int = Field(default=8, gt=0)
    """Rank of the update of each weight."""
    lora_alpha: int = Field(default=32, gt=0)
    """Scale of the update: alpha / rank."""
    lora_dropout_p: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's inputs dropped in training."""
    lora_target_modules: tuple[str, ...] = Field(default=("ALL",), min_length=1)
    """Names of the linear layers that get an adapter; ALL is every one but the output head."""


class OptimPart(_Part):
    """How it is learned. The defaults suit a 135M model and a few thousand rows."""

    learning_rate: float = Field(default=2e-3, gt=0)
    """Highest learning rate, reached after the warm-up."""
    lr_scheduler_type: Scheduler = Scheduler.LINEAR
    """How it falls from there: linear, cosine or constant."""
    warmup_ratio: float = Field(default=0.03, ge=0, le=1)
    """Share of all steps in which the learning rate rises."""
    num_train_epochs: int = Field(default=1, gt=0)
    """How often every row is seen."""
    max_steps: int = Field(default=-1, ge=-1)
    """Stop after this many steps; -1 goes through all epochs."""
    batch_size: int | None = Field(default=None, gt=0)
    """Rows of a micro-batch; if not given, --max_tokens_per_batch decides."""
    max_tokens_per_batch: int = Field(default=1536, gt=0)
    """Distinct tokens of a micro-batch; memory grows with it."""
    gradient_accumulation_steps: int | None = Field(default=None, gt=0)
    """Micro-batches of a step on each process; with --batch_size enough for 16 rows a step, else 1."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay of AdamW."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are cut to this norm."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them."""
    seed: int = Field(default=42, ge=0)
    """Decides initial weights, order, split and dropout."""

    @field_validator("gradient_accumulation_steps", mode="before")
    @classmethod
    def _at_least_one(cls, value: object) -> object:
        # The published command says $(expr 1 / $nproc_per_node), which is 0 on two processes and more.
        return 1 if value in (0, "0") else value

    def micro_batches(self, world: int) -> int:
        """Return the micro-batches of one step over all `world` processes."""
        own = self.gradient_accumulation_steps
        if own is None:
            own = 1 if self.batch_size is None else math.ceil(_SWIFT_GLOBAL_BATCH / self.batch_size / world)
        return own * world


class RunPart(_Part):
    """What is written, and when."""

    output_dir: Path = Path("output")
    """Folder to write to."""
    add_output_dir_suffix: bool = True
    """Write to OUTPUT_DIR/<model>/v<number>-<time>, a new folder for each run; false writes into OUTPUT_DIR."""
    eval_steps: int = Field(default=50, gt=0)
    """Steps between evaluations; the last step always evaluates."""
    save_steps: int | None = Field(default=None, gt=0)
    """Steps between checkpoints; as often as evaluations if not given."""
    save_total_limit: int | None = Field(default=None, gt=0)
    """Newest checkpoints to keep, beside the best; all if not given."""
    logging_steps: int = Field(default=1, gt=0)
    """Steps between lines of logging.jsonl."""
    metric_for_best_model: Metric = Metric.LOSS
    """What makes a checkpoint the best: loss, or visits done right (none of which reports count)."""
    metric_visits: int = Field(default=30, gt=0)
    """How many visits are run for --metric_for_best_model visits."""
    resume_from_checkpoint: str | None = None
    """Checkpoint or run to go on with; auto takes the newest run under OUTPUT_DIR, or starts one."""


PARTS: dict[str, type[_Part]] = {
    "base": ModelPart, "data": DataPart, "lora": LoraPart, "optim": OptimPart, "run": RunPart,
}  # fmt: skip


class Flag(NamedTuple):
    """One field of the recipe as the command line shows it."""

    name: str
    part: str
    field: FieldInfo


def flags() -> Iterator[Flag]:
    """Yield every field of every part, in order."""
    for part, kind in PARTS.items():
        for name, field in kind.model_fields.items():
            yield Flag(name, part, field)


class Recipe(_Part):
    """How to fine-tune: base model, data, adapter, optimisation, and what the run writes."""

    base: ModelPart = ModelPart()
    data: DataPart = DataPart()
    lora: LoraPart = LoraPart()
    optim: OptimPart = OptimPart()
    run: RunPart = RunPart()

    @classmethod
    def of(cls, **values: object) -> Self:
        """Build a recipe from flat names: `Recipe.of(learning_rate=5e-5, batch_size=2)`.

        Raises ToolweaveError that names the flag, and the nearest one for a name that is unknown.
        """
        where = {flag.name: flag.part for flag in flags()}
        nested: dict[str, dict[str, object]] = {part: {} for part in PARTS}
        for given, value in values.items():
            name = ALIASES.get(given, given)
            if name not in where:
                nearest = difflib.get_close_matches(given, [*where, *ALIASES], n=1, cutoff=0.4)
                hint = f"did you mean {nearest[0]}?" if nearest else "toolweave sft --help lists all"
                raise ToolweaveError(f"the recipe knows no {given!r}", hint)
            if name in nested[where[name]]:
                raise ToolweaveError(f"{given} is given twice: it is the same as {name}", "say it once")
            nested[where[name]][name] = _listed(name, value)
        try:
            return cls.model_validate(nested)
        except ValidationError as error:
            raise _explained(error) from error

    def flat(self) -> dict[str, Any]:
        """Return every choice under its flat name, as JSON values."""
        return {name: value for part in self.model_dump(mode="json").values() for name, value in part.items()}


def read_config(path: Path) -> dict[str, Any]:
    """Return the flat choices of a YAML (or JSON) recipe. Raises DataError when it is none."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}", "check the path of --config") from error
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise DataError(f"cannot read {path}: {error}", "a recipe is YAML, one `flag: value` a line") from error
    if not isinstance(content, Mapping):
        raise DataError(f"{path} is no recipe", "a recipe is YAML, one `flag: value` a line")
    return {ALIASES.get(str(name), str(name)): value for name, value in content.items()}


def write_config(recipe: Recipe, path: Path) -> None:
    """Write every choice, readable by `read_config`; whoever watches the run sees the whole file or none."""
    write_json(path, recipe.flat())


def takes_list(name: str) -> bool:
    """Tell whether a flag takes several values."""
    return name in _LISTS


_LISTS = {flag.name for flag in flags() if str(flag.field.annotation).startswith("tuple")}


def _listed(name: str, value: object) -> object:
    if name in _LISTS and isinstance(value, str | Path):
        return (str(value),)
    return value


def _explained(error: ValidationError) -> ToolweaveError:
    first = error.errors()[0]
    name, value, context = first["loc"][1], first["input"], first.get("ctx", {})
    match first["type"]:
        case "greater_than":
            reason = f"must be above {context['gt']}, not {value}"
        case "greater_than_equal":
            reason = f"must be at least {context['ge']}, not {value}"
        case "less_than":
            reason = f"must be below {context['lt']}, not {value}"
        case "less_than_equal":
            reason = f"must be at most {context['le']}, not {value}"
        case "enum":
            reason = f"must be {context['expected']}, not {value!r}"
        case _:
            reason = f"cannot be {value!r}: {first['msg'].removeprefix('Input should be ')}"
    return ToolweaveError(f"--{name} {reason}")
