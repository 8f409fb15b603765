"""Rows of data wherever they are: JSON, JSON Lines, CSV, Parquet, Arrow, folders of these, and hub ids.

Rows are read one at a time. What cannot be read is yielded as the error that it is, with its line, so
that nothing is lost silently. Lines of JSON Lines count from 1, rows of the other formats too.
"""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from toolweave.data import api_bank
from toolweave.data.agentfabric_rows import join_visits
from toolweave.data.formats import FORMATS, SAMPLES, detect, get_format
from toolweave.data.jsonl import numbered_lines, parse_line
from toolweave.errors import DataError
from toolweave.types import Json

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
_NOT_DATA = {
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "package.json",
    "manifest.json",
}
_OTHER_SPLITS = ("test", "valid", "validation", "dev", "eval")
_PEEK = 50
_BATCH = 256
_ANSWERS = "possible_answer"


class Read(NamedTuple):
    """A row, or why it cannot be read; `file` and `line` say where it stands."""

    file: Path
    line: int
    content: Json | DataError


@dataclass(frozen=True, slots=True)
class Source:
    """The files of a data set, and the format of their rows. `skipped` files are other splits."""

    files: tuple[Path, ...]
    format: str
    skipped: tuple[Path, ...] = ()

    def rows(self) -> Iterator[Read]:
        """Yield every row; those that a format joins (a visit, a dialogue) come as one."""
        if self.format == "api_bank":
            yield from (Read(path, 1, row) for path, row in api_bank.dialogue_rows(self.files))
            return
        for path in self.files:
            rows = read_file(path)
            if self.format == "bfcl":
                rows = _with_answers(path, rows)
            elif self.format == "ms_agent_for_agentfabric":
                rows = _joined(path, rows)
            yield from rows


def open_source(source: str | Path, format_: str | None = None) -> Source:
    """Find the files of a path or hub id, and their format. Raises DataError if there are none, or none is known."""
    from toolweave.data.hub import HubId, download

    hub = HubId.parse(str(source)) if not Path(source).exists() else None
    path = download(hub) if hub else Path(source)
    files, skipped = _files(path)
    if format_ is not None and format_ != SAMPLES:
        get_format(format_)
    return Source(tuple(files), format_ or _detect(files), tuple(skipped))


def read_file(path: Path) -> Iterator[Read]:
    """Yield the rows of one file by its suffix. Raises DataError if the file as a whole cannot be read."""
    suffix = path.suffix.lower()
    if suffix == ".json" and _is_array(path):
        yield from _json_array(path)
    elif suffix in (".csv", ".tsv"):
        yield from _csv(path, "\t" if suffix == ".tsv" else ",")
    elif suffix in (".parquet", ".arrow"):
        yield from _arrow(path)
    else:
        for line, raw in numbered_lines(path):
            try:
                yield Read(path, line, parse_line(raw))
            except DataError as error:
                yield Read(path, line, error)


def _files(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the data files of a path, and those left aside as other splits than training."""
    if not path.is_dir():
        return [path], []
    found = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and file.name not in _NOT_DATA
        and not any(part.startswith((".", "_")) or part == _ANSWERS for part in file.relative_to(path).parts)
    )
    if not found:
        raise DataError(f"{path} holds no data files", f"files end in {', '.join(SUFFIXES)}")
    if any("train" in file.stem.lower() for file in found):
        others = [file for file in found if any(split in file.stem.lower() for split in _OTHER_SPLITS)]
        return [file for file in found if file not in others], others
    return found, []


def _detect(files: Sequence[Path]) -> str:
    first: DataError | None = None
    for path in files:
        rows = list(itertools.islice(read_file(path), _PEEK))
        name = detect(row.content for row in rows if not isinstance(row.content, DataError))
        if name:
            return name
        first = first or next((row.content for row in rows if isinstance(row.content, DataError)), None)
        if rows and first is None:
            keys = ", ".join(rows[0].content) if isinstance(rows[0].content, dict) else ""
            first = DataError(f"no known format: its rows have {keys or 'no columns'}")
    if first is None:
        raise DataError(f"{files[0]} has no row that can be converted, it is empty", "check the file")
    raise DataError(f"{files[0]}: {first}", f"name the format with --from: {', '.join((SAMPLES, *FORMATS))}")


def _is_array(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"["
    except OSError:
        return False  # numbered_lines says what is wrong


def _json_array(path: Path) -> Iterator[Read]:
    try:
        rows = json.loads(path.read_text("utf-8-sig"))
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(
            f"{path} is not JSON: {error}", "a .json file holds a list of rows, or one row a line"
        ) from error
    for number, row in enumerate(rows, start=1):
        is_row = isinstance(row, dict)
        yield Read(path, number, row if is_row else DataError("not an object", "each item must be an object: {…}"))


def _csv(path: Path, delimiter: str) -> Iterator[Read]:
    csv.field_size_limit(1 << 30)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter=delimiter, restkey="", strict=True)
            for number, row in enumerate(reader, start=1):
                if "" in row or None in row.values():
                    yield Read(path, number, DataError("more or fewer cells than columns", "quote cells with commas"))
                else:
                    yield Read(path, number, dict(row))
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}", "save it as UTF-8 CSV with a header line") from error


def _arrow(path: Path) -> Iterator[Read]:
    number = 0
    for batch in _record_batches(path):
        for row in batch.to_pylist():
            number += 1
            # A column that a row does not have is null in Arrow.
            yield Read(path, number, {key: value for key, value in row.items() if value is not None})


def _record_batches(path: Path) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow import ipc, parquet

    try:
        if path.suffix.lower() == ".parquet":
            yield from parquet.ParquetFile(path).iter_batches(batch_size=_BATCH)
            return
        with pa.memory_map(str(path)) as mapped:
            for batch in ipc.open_stream(mapped):
                for start in range(0, batch.num_rows, _BATCH):
                    yield batch.slice(start, _BATCH)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {path}: {error}", "check that the file is whole") from error


def _with_answers(path: Path, rows: Iterable[Read]) -> Iterator[Read]:
    """Add BFCL's ground truth, which lies in a folder beside the questions."""
    answers = path.parent / _ANSWERS / path.name
    truth: dict[Any, Any] = {}
    if answers.exists():
        for answer in read_file(answers):
            if isinstance(answer.content, dict):
                truth[answer.content.get("id")] = answer.content.get("ground_truth")
    for row in rows:
        content = row.content
        if isinstance(content, dict) and content.get("id") in truth:
            content = {"ground_truth": truth[content["id"]], **content}
        yield row._replace(content=content)


def _joined(path: Path, rows: Iterable[Read]) -> Iterator[Read]:
    """Join the rows of each visit; an unreadable row comes out before the visit it interrupts."""
    errors: list[Read] = []

    def readable() -> Iterator[tuple[int, Json]]:
        for row in rows:
            if isinstance(row.content, DataError):
                errors.append(row)
            else:
                yield row.line, row.content

    for line, visit in join_visits(readable()):
        yield from errors
        errors.clear()
        yield Read(path, line, visit)
    yield from errors
