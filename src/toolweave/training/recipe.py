"""The training recipe: every choice of a fine-tune, typed and checked, under SWIFT's names."""

from __future__ import annotations

from dataclasses import dataclass

from toolweave.errors import ToolweaveError


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to fine-tune. The defaults suit a 135M model and a few thousand samples."""

    learning_rate: float = 2e-3
    num_train_epochs: int = 1
    max_length: int = 2048
    """Longer samples are dropped and reported, in tokens."""
    max_tokens_per_batch: int = 1536
    """Distinct tokens computed at once; memory grows with it."""
    gradient_accumulation_steps: int = 1
    lora_rank: int = 8
    lora_alpha: int = 32
    lora_dropout_p: float = 0.0
    warmup_ratio: float = 0.03
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    dataset_test_ratio: float = 0.01
    """Share of the samples held back for the evaluation loss."""
    eval_steps: int = 50
    logging_steps: int = 1
    seed: int = 42

    def __post_init__(self) -> None:
        positive = {
            "learning_rate": self.learning_rate,
            "num_train_epochs": self.num_train_epochs,
            "max_length": self.max_length,
            "max_tokens_per_batch": self.max_tokens_per_batch,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "lora_rank": self.lora_rank,
            "lora_alpha": self.lora_alpha,
            "eval_steps": self.eval_steps,
            "logging_steps": self.logging_steps,
        }
        for name, value in positive.items():
            if value <= 0:
                raise ToolweaveError(f"--{name} must be above 0, not {value}")
        if not 0 <= self.dataset_test_ratio < 1 or not 0 <= self.lora_dropout_p < 1 or not 0 <= self.warmup_ratio <= 1:
            raise ToolweaveError("--dataset_test_ratio, --lora_dropout_p and --warmup_ratio are shares from 0 to 1")
