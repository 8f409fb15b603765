"""Make a starter: fine-tune the embedded model on the agents that the demo does not show.

Run it with `make starter`; on two cores it takes some 80 minutes and goes on where it was when it is interrupted. The
adapter is packed as bf16 into the package, where `embedded-tools` finds it.
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
from toolweave.models.locate import EMBEDDED, STARTER
from toolweave.training.progress import best_checkpoint

GROUPS, SEED = 1300, 100
VALIDATION_GROUPS, VALIDATION_SEED = 3, 119
WORK = Path("output/starter")


def main() -> None:
    """Write the samples, learn them, pack the adapter."""
    WORK.mkdir(parents=True, exist_ok=True)
    run = WORK / "sft"
    samples = _samples("samples", GROUPS, SEED)
    validation = _samples("validation", VALIDATION_GROUPS, VALIDATION_SEED)
    sft(samples, EMBEDDED, run, "--val_dataset", validation, "--resume_from_checkpoint", "auto")
    pack(best_checkpoint(run), STARTER)


def _samples(name: str, groups: int, seed: int) -> Path:
    path = WORK / f"{name}.jsonl"
    drawn = training_groups(groups * VISITS_PER_GROUP, seed, Breadth.OTHERS)
    write_jsonl(path, (sample.to_json() for group in drawn for sample in group))
    return path


def pack(adapter: Path, target: Path) -> None:
    """Write the weights of `adapter` as bf16, and its configuration, into `target`."""
    weights = load_file(adapter / "adapter_model.safetensors")
    packed = {name: weight.to(torch.bfloat16).contiguous() for name, weight in weights.items()}
    save_file(packed, target / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        **json.loads((adapter / "adapter_config.json").read_text("utf-8")),
        "base_model_name_or_path": EMBEDDED,
    }
    (target / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
