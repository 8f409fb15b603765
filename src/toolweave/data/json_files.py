"""Files that hold one JSON object: reading errors name the file, writing is whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from toolweave.errors import DataError
from toolweave.types import Json

_MAX_JSON = 10_000_000


def read_json(path: Path) -> Json:
    """Read a file that holds a JSON object. Raises DataError."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise DataError(f"{path} is larger than {_MAX_JSON:,} bytes")
        content = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} does not hold a JSON object")
    return content


def write_json(path: Path, content: Json, mode: int = 0o666) -> None:
    """Write a JSON object as AgentFabric writes it; the file is whole or not there. `mode` is that of a new file."""
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    part.touch(mode)
    part.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", "utf-8")
    part.replace(path)
