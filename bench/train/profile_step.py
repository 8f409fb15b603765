"""Profile one optimiser step of ours on the agent data: where the time goes, and how near it is to the limits.

    python bench/train/profile_step.py [--rows 16]

Prints the time by class of operator, the step's operations against the GEMM peak, and the bytes that its
products move at least against the memory's speed.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter

import torch
from ours import recipe_of
from rich.console import Console
from rich.table import Table
from run import flops_per_pair, flops_per_token, gemm_peak
from torch import nn
from torch.profiler import ProfilerActivity, profile
from workload import agent_rows

from toolweave.models.base_models import load
from toolweave.models.dtypes import best_dtype
from toolweave.models.locate import EMBEDDED
from toolweave.training.loss import tree_loss
from toolweave.training.memory import forget_shapes
from toolweave.training.prefix_tree import PrefixTree
from toolweave.training.sft import adapt

# The first that occurs in an operator's name decides.
_CLASSES = {
    "attention products": ("bmm",),
    "matrix products": ("mm", "addmm", "linear"),
    "optimizer": ("adam", "_foreach", "lerp", "addcdiv", "addcmul"),
    "copies": ("copy_", "contiguous", "clone", "cat", "fill_", "zero_", "index", "gather", "scatter", "embedding"),
}
_CLOCKED_BYTES = 2**29
_STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16, help="rows of the step")
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    forget_shapes()
    loaded = load(EMBEDDED)
    recipe = recipe_of({
        "rank": 8, "alpha": 32, "dropout": args.dropout, "learning_rate": 2e-3, "weight_decay": 0.01,
        "max_grad_norm": 1.0, "batch": args.rows, "accumulation": 1, "turns": 1,
    })  # fmt: skip
    rows = agent_rows(loaded.template, args.rows, recipe).rows
    tree = PrefixTree.build([row.encoded for row in rows])
    flops, layers = flops_per_token(loaded.model), loaded.model.config.num_hidden_layers
    bytes_moved = layers * _bytes_of_a_layer(loaded.model, len(tree.tokens), layers)
    attention_flops = flops_per_pair(loaded.model) * int((tree.positions + 1).sum())

    model = adapt(loaded, recipe.lora).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3)

    def step() -> float:
        started = time.perf_counter()
        tree_loss(model, tree).backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - started

    # The first steps also get the memory of a step from the system.
    seconds = [step() for _ in range(_STEPS)][-1]
    peak, stream = gemm_peak(), memory_speed()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        step()

    console = Console(soft_wrap=True)
    spent: Counter[str] = Counter()
    for event in recorded.key_averages():
        spent[_class_of(event.key)] += event.self_cpu_time_total
    total = sum(spent.values())
    table = Table(
        "class", "share", title=f"{len(rows)} rows, {tree.nominal} tokens, {len(tree.tokens)} of them distinct"
    )
    for name, microseconds in spent.most_common():
        table.add_row(name, f"{microseconds / total:.1%}")
    console.print(table)
    for name, amount, limit, unit in (
        ("products with the base", len(tree.tokens) * flops, peak, "FLOP"),
        ("attention, each token to those it sees", attention_flops, peak, "FLOP"),
        ("bytes of both operands and results of the products", bytes_moved, stream, "B"),
    ):
        console.print(
            f"{name}: {amount / 1e9:.0f} G{unit}, at the measured limit of {limit / 1e9:.0f} G{unit}/s "
            f"{amount / limit:.2f} s of the step's {seconds:.2f} s",
            highlight=False,
        )


def memory_speed() -> float:
    """Return bytes per second of the best of five copies, read and written."""
    source = torch.ones(_CLOCKED_BYTES // 4)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        target.copy_(source)
        seconds.append(time.perf_counter() - started)
    return 2 * _CLOCKED_BYTES / min(seconds)


def _bytes_of_a_layer(model: nn.Module, tokens: int, layers: int) -> int:
    """Return what the products of one layer read and write at least, forward and backward."""
    shapes = [
        module.weight.shape
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.endswith("lm_head")
    ]
    size = best_dtype().itemsize
    both_ways = sum(2 * size * (rows * columns + tokens * (rows + columns)) for rows, columns in shapes)
    return both_ways // layers


def _class_of(operator: str) -> str:
    name = operator.removeprefix("aten::").lower()
    for kind, parts in _CLASSES.items():
        if any(part in name for part in parts):
            return kind
    return "element-wise and the rest"


if __name__ == "__main__":
    main()
