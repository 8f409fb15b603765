"""Teach the starter more: fine-tune `embedded-tools` on the agents that the demo does not show.

Run it with `make starter`; on two cores it takes some 105 minutes and goes on where it was when it is interrupted. What
it learns is stacked as bf16 on the adapter in the package, where `embedded-tools` finds it. Every run: a new `SEED`.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from toolweave.data.catalogue import Breadth
from toolweave.data.jsonl import write_jsonl
from toolweave.data.synthesize import VISITS_PER_GROUP, training_groups
from toolweave.demo import sft
from toolweave.models.locate import EMBEDDED_TOOLS, STARTER
from toolweave.training.progress import best_checkpoint

GROUPS, SEED = 1450, 101
VALIDATION_GROUPS, VALIDATION_SEED = 3, 119
WORK = Path("output/starter")


def main() -> None:
    """Write the samples, learn them, put what was learned into the package."""
    run, done = WORK / "sft", WORK / f"learned_{SEED}"
    if done.exists():
        raise SystemExit(f"{done}: what seed {SEED} draws is in the starter; to learn more, set a new SEED")
    WORK.mkdir(parents=True, exist_ok=True)
    samples = _samples("samples", GROUPS, SEED)
    validation = _samples("validation", VALIDATION_GROUPS, VALIDATION_SEED)
    sft(samples, EMBEDDED_TOOLS, run, "--val_dataset", validation, "--resume_from_checkpoint", "auto")
    run.rename(done)
    stack(STARTER, best_checkpoint(done))


def _samples(name: str, groups: int, seed: int) -> Path:
    path = WORK / f"{name}.jsonl"
    drawn = training_groups(groups * VISITS_PER_GROUP, seed, Breadth.OTHERS)
    write_jsonl(path, (sample.to_json() for group in drawn for sample in group))
    return path


def stack(starter: Path, learned: Path) -> None:
    """Put the adapter `learned` on top of `starter`: one adapter of both ranks, whose change is the sum of theirs."""
    below, above = (load_file(adapter / "adapter_model.safetensors") for adapter in (starter, learned))
    config, other = (json.loads((adapter / "adapter_config.json").read_text("utf-8")) for adapter in (starter, learned))
    if below.keys() != above.keys() or config["lora_alpha"] * other["r"] != other["lora_alpha"] * config["r"]:
        raise SystemExit(f"{starter} and {learned}: not adapters of the same layers and scale; they cannot be stacked")
    stacked = {
        # A is (rank, in) and B (out, rank); B·A of both ranks together is the sum of the two products.
        name: torch.cat((weight, above[name].to(weight)), dim=0 if "lora_A" in name else 1).contiguous()
        for name, weight in below.items()
    }
    save_file(stacked, starter / "adapter_model.safetensors", metadata={"format": "pt"})
    config |= {"r": config["r"] + other["r"], "lora_alpha": config["lora_alpha"] + other["lora_alpha"]}
    (starter / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
