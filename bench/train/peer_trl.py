"""TRL's worker: SFTTrainer on rows that are already tokens, so that they are the very same."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

from datasets import Dataset
from huggingface import TurnCallback, read_rows
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer
from turns import Turns


def main() -> None:
    options = json.loads(sys.argv[1])
    turns, folder = Turns(), Path(options["data"])
    rows = read_rows(folder / "tokens.jsonl")
    dataset = Dataset.from_list(
        [
            {"input_ids": row["ids"], "labels": [-100] * row["prompt"] + row["ids"][row["prompt"] :]}
            for row in rows
        ]
    )  # fmt: skip
    config = SFTConfig(
        output_dir=options["output"],
        model_init_kwargs={"dtype": options["dtype"]},
        bf16=options["dtype"] == "bfloat16",
        use_cpu=True,
        gradient_checkpointing=False,
        max_length=None,
        padding_free=options["padding_free"],
        per_device_train_batch_size=options["batch"],
        gradient_accumulation_steps=options["accumulation"],
        train_sampling_strategy="sequential",
        num_train_epochs=1,
        learning_rate=options["learning_rate"],
        lr_scheduler_type="constant",
        warmup_steps=0,
        adam_beta2=options["adam_beta2"],
        weight_decay=options["weight_decay"],
        max_grad_norm=options["max_grad_norm"],
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    lora = LoraConfig(
        r=options["rank"],
        lora_alpha=options["alpha"],
        lora_dropout=options["dropout"],
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    callback = TurnCallback(turns, rows, f"TRL {version('trl')}", options["per_turn"])
    SFTTrainer(options["model"], config, train_dataset=dataset, peft_config=lora, callbacks=[callback]).train()


if __name__ == "__main__":
    main()
