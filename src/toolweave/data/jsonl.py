"""JSON Lines in and out: every reading error names file and line, writing is whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from toolweave.dialects.caching import cached_by_identity
from toolweave.errors import DataError
from toolweave.types import Json, Sample, ToolSpec

_BOM = b"\xef\xbb\xbf"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


# NaN and 1e999 are refused: they could never be written again.
_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_BUFFER = 1 << 20


class Row(NamedTuple):
    """A row of a JSONL file; lines count from 1."""

    line: int
    content: Json


def numbered_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (line number from 1, bytes) of every line that is not blank. Raises DataError if there is no such file."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line.removeprefix(_BOM) if number == 1 else line
    except FileNotFoundError as error:
        raise DataError(f"no such file: {path}", "check the path; it is taken from the current folder") from error
    except IsADirectoryError as error:
        raise DataError(f"{path} is a folder, not a JSONL file", "name a file inside it") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def parse_line(line: bytes) -> Json:
    """Return the JSON object of one line. Raises DataError that says what the line is instead."""
    try:
        row = _DECODER.decode(line.decode("utf-8"))
        if b"\\ud" in line or b"\\uD" in line:
            # An escaped half of a surrogate pair passes, but could never be written again.
            json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeError as error:
        raise DataError("not UTF-8 text", "save the file in UTF-8") from error
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or str(error)
        raise DataError(f"not JSON ({reason})", "each line must hold one whole JSON object") from error
    if not isinstance(row, dict):
        raise DataError(f"a JSON {_kind(row)}, not an object", "each line must hold one JSON object: {…}")
    return row


def read_jsonl(path: Path) -> Iterator[Row]:
    """Yield the rows of a file, one at a time. Raises DataError naming file and line."""
    for number, line in numbered_lines(path):
        try:
            yield Row(number, parse_line(line))
        except DataError as error:
            raise DataError(f"{path}, line {number}: {error}") from error


def read_samples(path: Path) -> Iterator[Sample]:
    """Yield the samples of a file, one at a time. Raises DataError naming file and line."""
    for number, content in read_jsonl(path):
        try:
            yield Sample.from_json(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise DataError(
                f"{path}, line {number}: not a sample: {reason}",
                "samples have messages, stop, completion and tools; other formats go through toolweave data convert",
            ) from error


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows to `path` and return how many; the file appears whole or not at all.

    Rows go to a hidden file beside the target, which takes the target's place once it is on disk. If
    anything fails, also inside the iterable, the target stays as it was. Raises DataError when the
    target cannot be written, is no plain file, or the disk is full.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        raise DataError(f"{path} is not a plain file", "name a file to write to")
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    count = 0
    try:
        with draft.open("xb", buffering=_BUFFER) as file:
            for row in rows:
                file.write(encode_row(row) + b"\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise writing_error(path, error) from error
        raise
    return count


def encode_row(row: Mapping[str, Any]) -> bytes:
    """Return a row as JSON. Raises ValueError for numbers that JSON cannot say."""
    try:
        text = orjson.dumps(row)
    except TypeError:  # integers of more than 64 bits, keys that are no strings
        text = b"null"
    # It writes null for NaN, which must not pass, and so does not have the last word on either.
    return _ENCODER.encode(row).encode("utf-8") if b"null" in text else text


def sample_row(sample: Sample) -> Json:
    """Return what `Sample.to_json` does; the tools that many samples share are written once."""
    return sample.to_json(_tools_json(sample.tools))


@cached_by_identity
def _tools_json(tools: tuple[ToolSpec, ...]) -> str:
    return f"[{', '.join(map(_tool_json, tools))}]"


_tool_json = cached_by_identity(ToolSpec.openai_json)


def writing_error(path: Path, error: OSError) -> DataError:
    """Return the DataError that tells a user why `path` could not be written."""
    if error.errno in _NO_SPACE:
        return DataError(f"no space left on the disk while writing {path}", "free some space, or write elsewhere")
    if isinstance(error, FileNotFoundError):
        return DataError(f"cannot write {path}: its folder does not exist", f"mkdir -p {path.parent}")
    return DataError(f"cannot write {path}: {error.strerror or error}")


def _kind(value: object) -> str:
    kinds = {list: "list", str: "string", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "number")
