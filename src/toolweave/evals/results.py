"""Visit results on disk: one JSON line each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from toolweave.data.jsonl import write_jsonl
from toolweave.evals.cases import Line
from toolweave.evals.score import VisitResult
from toolweave.types import Lang


def save_results(path: Path, results: Iterable[VisitResult]) -> None:
    """Write results, whole or not at all."""
    write_jsonl(path, (asdict(result) for result in results))


def load_results(path: Path) -> list[VisitResult]:
    """Read what `save_results` wrote."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [
        VisitResult(**{**row, "line": Line(row["line"]), "lang": Lang(row["lang"]), "calls": tuple(row["calls"])})
        for row in rows
    ]
