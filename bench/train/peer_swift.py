"""ms-swift's worker: its own `swift sft`, run inside this process so that a callback can take the turns."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

from huggingface import TurnCallback, read_rows
from swift.pipelines import sft_main
from swift.template import register_template
from swift.template.templates.utils import ChatmlTemplateMeta
from swift.trainers import patcher  # noqa: F401  # replaces the default callbacks when it is imported
from transformers import trainer
from turns import Turns


def main() -> None:
    options = json.loads(sys.argv[1])
    turns, folder = Turns(), Path(options["data"])
    callback = TurnCallback(
        turns, read_rows(folder / "tokens.jsonl"), f"ms-swift {version('ms-swift')}", options["per_turn"]
    )
    trainer.DEFAULT_CALLBACKS.append(callback)
    # Its own ChatML learns a newline after the stop token, which no server ever writes; else they are the same.
    register_template(ChatmlTemplateMeta("chatml_stop", suffix=["<|im_end|>"]))
    flags = {
        "model": options["model"],
        "model_type": "llama",
        "template": "chatml_stop",
        "loss_scale": "last_round",
        "dataset": str(folder / "messages.jsonl"),
        "split_dataset_ratio": 0,
        "dataset_shuffle": "false",
        "train_dataloader_shuffle": "false",
        "load_from_cache_file": "false",
        "max_length": 8192,
        "use_cpu": "true",
        "torch_dtype": options["dtype"],
        "attn_impl": "sdpa",
        "gradient_checkpointing": "false",
        "tuner_type": "lora",
        "target_modules": "all-linear",
        "lora_rank": options["rank"],
        "lora_alpha": options["alpha"],
        "lora_dropout": options["dropout"],
        "per_device_train_batch_size": options["batch"],
        "gradient_accumulation_steps": options["accumulation"],
        "dataloader_num_workers": 0,
        "num_train_epochs": 1,
        "learning_rate": options["learning_rate"],
        "lr_scheduler_type": "constant",
        "warmup_ratio": 0,
        "adam_beta2": options["adam_beta2"],
        "weight_decay": options["weight_decay"],
        "max_grad_norm": options["max_grad_norm"],
        "logging_steps": 1,
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "output_dir": options["output"],
    }
    sft_main([word for name, value in flags.items() for word in (f"--{name}", str(value))])


if __name__ == "__main__":
    main()
