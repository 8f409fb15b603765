"""Pictures of a run."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure


def plot_losses(log: Path, target: Path) -> None:
    """Draw training and evaluation loss over steps from `logging.jsonl` into a PNG."""
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], label="train", color="#4c78a8", lw=1)
    measured = [row for row in rows if "eval_loss" in row]
    axes.plot([r["step"] for r in measured], [r["eval_loss"] for r in measured], "o-", label="eval", color="#e45756")
    axes.set(xlabel="step", ylabel="loss per label token", yscale="log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, dpi=120)
