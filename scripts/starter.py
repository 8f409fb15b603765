"""Teach the starter more: fine-tune `embedded-tools` on the agents that the demo does not show.

Run it with `make starter`; on two cores it takes some 105 minutes and goes on where it was when it is interrupted. What
it learns is stacked as bf16 on the adapter in the package, where `embedded-tools` finds it. Every run: a new `SEED`.
"""

from __future__ import annotations

from pathlib import Path

from toolweave.data.catalogue import Breadth
from toolweave.data.jsonl import write_jsonl
from toolweave.data.synthesize import VISITS_PER_GROUP, training_groups
from toolweave.demo import sft
from toolweave.models.locate import EMBEDDED_TOOLS, STARTER
from toolweave.training.progress import best_checkpoint
from toolweave.weights.average import stack, write_adapter

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
    # One on top of the other: what was learned first stays.
    write_adapter(STARTER, *stack([STARTER, best_checkpoint(done)], [1, 1]))


def _samples(name: str, groups: int, seed: int) -> Path:
    path = WORK / f"{name}.jsonl"
    drawn = training_groups(groups * VISITS_PER_GROUP, seed, Breadth.OTHERS)
    write_jsonl(path, (sample.to_json() for group in drawn for sample in group))
    return path


if __name__ == "__main__":
    main()
