"""What a model was made from: the data sets of a run, and the traces whose rows are in them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toolweave.data.jsonl import read_jsonl
from toolweave.types import Json

_TRACE = "trace"


@dataclass(frozen=True, slots=True)
class DatasetOrigin:
    """One data set as it was when training began.

    `sha256` is empty for what is not a file here. `traces` are the ids of the traces among its rows; agents, models
    and verdicts are those of these traces, with counts.
    """

    source: str
    sha256: str = ""
    rows: int = 0
    traces: tuple[str, ...] = ()
    agents: Mapping[str, int] = field(default_factory=dict)
    models: Mapping[str, int] = field(default_factory=dict)
    verdicts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lineage:
    """The origins of a run's data sets."""

    datasets: tuple[DatasetOrigin, ...] = ()

    @property
    def traces(self) -> tuple[str, ...]:
        """The ids of all traces that it learned from."""
        return tuple(dict.fromkeys(trace for dataset in self.datasets for trace in dataset.traces))

    def to_json(self) -> Json:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Lineage:
        """Read what `to_json` returned."""
        return cls(tuple(DatasetOrigin(**{**row, "traces": tuple(row["traces"])}) for row in content["datasets"]))


def lineage_of(sources: Sequence[str]) -> Lineage:
    """Return the lineage of data sets. Raises DataError for a JSONL file that cannot be read."""
    return Lineage(tuple(map(_origin, sources)))


def _origin(source: str) -> DatasetOrigin:
    path = Path(source)
    if not path.is_file() or path.suffix != ".jsonl":
        return DatasetOrigin(source)
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    rows, traces = 0, []
    for _, row in read_jsonl(path):
        rows += 1
        meta = row.get("meta")
        if isinstance(meta, Mapping) and meta.get("kind") == _TRACE:
            traces.append(meta)
    tallies = {
        f"{name}s": dict(Counter(str(meta.get(name) or "") for meta in traces))
        for name in ("agent", "model", "verdict")
    }
    return DatasetOrigin(source, digest, rows, tuple(str(meta.get(_TRACE)) for meta in traces), **tallies)
