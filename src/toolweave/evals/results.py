"""Visit results on disk: one JSON line each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from toolweave.data.jsonl import read_jsonl, write_jsonl
from toolweave.errors import DataError
from toolweave.evals.cases import Line
from toolweave.evals.score import VisitResult
from toolweave.types import Json, Lang


def save_results(path: Path, results: Iterable[VisitResult]) -> None:
    """Write results, whole or not at all."""
    write_jsonl(path, (asdict(result) for result in results))


def load_results(path: Path) -> list[VisitResult]:
    """Read what `save_results` wrote. Raises DataError naming file and line."""
    results = []
    for number, row in read_jsonl(path):
        try:
            lists: Json = {name: tuple(row[name]) for name in ("calls", "failures", "tools") if name in row}
            named = {**row, **lists, "line": Line(row["line"]), "lang": Lang(row["lang"])}
            results.append(VisitResult(**named))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}, line {number}: not a visit's result: {error}", "see toolweave eval run"
            ) from error
    return results
