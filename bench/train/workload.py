"""The rows that all workers learn, in one order, each in the form that its worker reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from toolweave.data.jsonl import write_jsonl
from toolweave.data.synthesize import VISITS_PER_GROUP, training_groups
from toolweave.models.template import ChatTemplate
from toolweave.training.plan import Plan
from toolweave.training.prefix_tree import PrefixTree
from toolweave.training.recipe import Recipe, Strategy
from toolweave.training.rows import Row, prepare
from toolweave.types import Sample

_POOL = 20 * VISITS_PER_GROUP


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens of one turn, as if nothing were shared and as many as are computed; pairs: how often one sees another."""

    nominal: int
    unique: int
    pairs: int


@dataclass(frozen=True, slots=True)
class Workload:
    """Rows in the order that every peer learns them in, `rows` of them in an optimiser step."""

    name: str
    rows: tuple[Row, ...]

    def save(self, folder: Path) -> None:
        """Write the rows as samples (ours), tokens (TRL and the comparison) and messages (ms-swift)."""
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / "samples.jsonl", [row.sample.to_json() for row in self.rows])
        tokens = [{"ids": list(row.encoded.ids), "prompt": row.encoded.prompt} for row in self.rows]
        (folder / "tokens.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tokens), "utf-8")
        write_jsonl(folder / "messages.jsonl", [{"messages": _spoken(row.sample)} for row in self.rows])

    def turns_of_rows(self, size: int) -> list[Work]:
        """Return the work of each turn of a peer, which computes every token."""
        batches = [self.rows[start : start + size] for start in range(0, len(self.rows), size)]
        lengths = [[len(row.encoded.ids) for row in batch] for batch in batches]
        return [Work(sum(turn), sum(turn), sum(n * (n + 1) // 2 for n in turn)) for turn in lengths]

    def turns_of_trees(self, recipe: Recipe) -> list[Work]:
        """Return the work of each of our turns under `recipe`."""
        plan = Plan.of([row.encoded for row in self.rows], recipe.optim, world=1)
        trees = [[PrefixTree.build(batch) for batch in plan.step(number)] for number in range(plan.total)]
        return [
            Work(
                sum(tree.nominal for tree in step),
                sum(len(tree.tokens) for tree in step),
                sum(int((tree.positions + 1).sum()) for tree in step),
            )
            for step in trees
        ]


def agent_rows(template: ChatTemplate, count: int, recipe: Recipe) -> Workload:
    """Return the first `count` rows that a run on `_POOL` visits of our training data learns: whole batches."""
    rows = _prepared(chain.from_iterable(training_groups(_POOL)), template, recipe)
    size = recipe.optim.batch_size or 1
    learned = _ordered(rows[: len(rows) // size * size], recipe)
    # A run on these rows alone cuts them into the same batches, in an order of its own.
    return Workload("agent", _ordered(learned[:count], recipe))


def distinct_rows(template: ChatTemplate, count: int, recipe: Recipe) -> Workload:
    """Return `count` rows of the same kind that share (next to) nothing: one row of each of `count` groups."""
    groups = training_groups(visits=count * VISITS_PER_GROUP)
    rows = _prepared((group[0] for group in islice(groups, count)), template, recipe)
    return Workload("distinct", _ordered(rows, recipe))


def _prepared(samples: Iterable[Sample], template: ChatTemplate, recipe: Recipe) -> list[Row]:
    """Encode samples, equal ones once: the demo repeats a row for its weight, which costs a tree nothing."""
    kept = prepare(list(samples), template, recipe.data.max_length, Strategy.ERROR).kept
    return list({row.encoded: row for row in kept}.values())


def _ordered(rows: Sequence[Row], recipe: Recipe) -> tuple[Row, ...]:
    """Put rows, all of them different, into the order of our first epoch, so that step n learns the same everywhere."""
    rows_of = {row.encoded: row for row in rows}
    plan = Plan.of(list(rows_of), recipe.optim, world=1)
    return tuple(rows_of[row] for number in range(plan.per_epoch) for batch in plan.step(number) for row in batch)


def _spoken(sample: Sample) -> list[dict[str, str]]:
    said = [{"role": str(message["role"]), "content": str(message["content"])} for message in sample.messages]
    return [*said, {"role": "assistant", "content": sample.completion}]
