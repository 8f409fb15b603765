"""Pictures of a run: one for each scalar, and `loss.png` with both losses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

_COLOURS = {"loss": "#4c78a8", "eval_loss": "#e45756"}


def plot_run(log: Path, images: Path) -> None:
    """Draw every scalar of `logging.jsonl` over steps into PNGs named after it."""
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    images.mkdir(parents=True, exist_ok=True)
    names = sorted({name for row in rows for name in row} - {"step", "loss"})
    for name in names:
        _draw(rows, [name], images / f"{name}.png")
    _draw(rows, ["loss", "eval_loss"], images / "loss.png")


def _draw(rows: Sequence[Mapping[str, float]], names: Sequence[str], target: Path) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in names:
        points = [(row["step"], row[name]) for row in rows if name in row]
        style = "-" if len(points) > 1 and name != "eval_loss" else "o-"
        axes.plot(*zip(*points, strict=True) if points else ([], []), style, label=name, color=_COLOURS.get(name), lw=1)
    losses = all(name.endswith("loss") for name in names)
    axes.set(xlabel="step", ylabel="loss per label token" if losses else names[0])
    if losses and any(name in row for row in rows for name in names):
        axes.set_yscale("log")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(target, dpi=120)
