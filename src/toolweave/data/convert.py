"""Conversion of foreign data sets to sample files: the requests that the app would have sent."""

from __future__ import annotations

from pathlib import Path

from toolweave.data.jsonl import sample_row, write_jsonl
from toolweave.data.load import Loading, LoadReport
from toolweave.data.strategy import Strategy
from toolweave.errors import DataError


def convert(
    source: str | Path,
    target: str | Path,
    *,
    from_: str | None = None,
    dialect: str = "v06",
    strategy: Strategy = Strategy.ERROR,
) -> LoadReport:
    """Convert a file, folder or hub id to samples in a dialect; the format is detected unless `from_` names it.

    With `Strategy.ERROR` the first bad row raises DataError naming file and line; else bad rows are left
    out and listed in the report. On any error the target stays as it was. A source of which no row can be
    converted is an error either way.
    """
    target = Path(target)
    if Path(source).exists() and target.exists() and Path(source).samefile(target):
        raise DataError(f"{source} is both source and target", "write to another file")
    loading = Loading(source, format=from_, dialect=dialect, strategy=strategy)
    write_jsonl(target, (sample_row(sample) for sample in loading.samples()))
    return loading.report()
