"""Agents as zip archives: what AgentFabric's publish button makes, and what its import reads.

An archive holds `config/` (older ones `config/local_user/`) with the JSON files, the avatar and the knowledge files,
and may hold an app beside it, which is never read: nothing of an archive is run.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from toolweave.agents.spec import LOCAL_USER, AgentSpec, FileKind, load_agent
from toolweave.data.json_files import read_json, write_json
from toolweave.errors import DataError
from toolweave.types import Json

MAX_FILES = 1_000
MAX_BYTES = 200_000_000
"""Of all files of an archive together, unpacked."""

_CONFIG = "config"
_CHUNK = 1 << 20
_SECRET = re.compile(r"(.*_)?(api_?key|token|secret|password)", re.IGNORECASE)


def export_agent(spec: AgentSpec, target: Path) -> None:
    """Write an agent as an archive: JSON files without keys, knowledge files, avatar.

    Raises DataError if `target` exists already or cannot be written.
    """
    if target.exists():
        raise DataError(f"{target} exists already", "choose another name, or remove it first")
    attached = {path.name: path for path in spec.knowledge_files()}
    builder = spec.builder | {"knowledge": [f"{_CONFIG}/{name}" for name in attached]}
    if spec.folder is not None and spec.avatar:
        avatar = spec.folder / PurePosixPath(spec.avatar).name
        if avatar.is_file() and not avatar.is_symlink():
            attached[avatar.name] = avatar
    with TemporaryDirectory() as folder:
        # Made beside, moved when whole.
        AgentSpec(
            without_secrets(builder),
            without_secrets(spec.models),
            without_secrets(spec.tool_config),
            without_secrets(spec.plugin),
        ).save(Path(folder))
        packed = Path(folder, "archive.zip")
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            for kind in FileKind:
                if (file := Path(folder, kind.file_name)).exists():
                    archive.write(file, f"{_CONFIG}/{kind.file_name}")
            for name, path in attached.items():
                archive.write(path, f"{_CONFIG}/{name}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(packed, part := target.with_name(target.name + ".part"))
            part.replace(target)
        except OSError as error:
            raise DataError(f"cannot write {target}: {error}") from error


def import_agent(source: Path, folder: Path) -> AgentSpec:
    """Unpack an archive into `folder`, which must be new or empty, and load the agent.

    Raises DataError, with nothing left behind, for what is not an agent's archive, for a member that would land
    outside, for links, and for an archive that unpacks to more than `MAX_BYTES` or `MAX_FILES`.
    """
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty", "name a new folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=".import-") as temporary:
        unpacked = Path(temporary, "agent")
        unpacked.mkdir()
        try:
            with zipfile.ZipFile(source) as archive:
                _unpack(archive, unpacked)
        except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
            raise DataError(f"cannot read {source}: {error}") from error
        builder_file = unpacked / FileKind.BUILDER.file_name
        if not builder_file.is_file():
            raise DataError(f"{source} has no {_CONFIG}/{FileKind.BUILDER.file_name}", "it is not an agent's archive")
        builder = read_json(builder_file)
        names = [str(name).replace("\\", "/") for name in builder.get("knowledge") or ()]
        # The paths become those of this folder; a file that was not packed is named as it was, and reported.
        present = {path.name for path in unpacked.iterdir()}
        bare = [PurePosixPath(name).name for name in names]
        knowledge = [name if name in present else old for name, old in zip(bare, names, strict=True)]
        if knowledge:
            write_json(builder_file, builder | {"knowledge": knowledge})
        load_agent(unpacked)
        if folder.exists():
            folder.rmdir()
        os.replace(unpacked, folder)
    return load_agent(folder)


def without_secrets(content: Json) -> Json:
    """Return a copy with the values of keys like `apikey` or `token` emptied."""
    cleaned: Json = _cleaned(content)
    return cleaned


def _cleaned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            key: "" if isinstance(item, str) and _SECRET.fullmatch(str(key)) else _cleaned(item)
            for key, item in value.items()
        }
    return [_cleaned(item) for item in value] if isinstance(value, list) else value


def _unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    members = archive.infolist()
    if len(members) > MAX_FILES:
        raise DataError(f"the archive holds more than {MAX_FILES} files")
    left = MAX_BYTES
    seen: set[str] = set()
    for member in members:
        name = _target(member)
        if name is None:
            continue
        if name.casefold() in seen:
            raise DataError(f"the archive holds {name!r} twice")
        seen.add(name.casefold())
        target = folder / name
        with archive.open(member) as packed, target.open("wb") as unpacked:
            # What the archive says of its sizes may be a lie: what arrives is counted.
            while chunk := packed.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise DataError(f"the archive unpacks to more than {MAX_BYTES:,} bytes")
                unpacked.write(chunk)


def _target(member: zipfile.ZipInfo) -> str | None:
    """Return the file name that a member gets, None for what is not the agent's. Raises DataError if it is hostile."""
    name = member.filename
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name:
        raise DataError(f"the archive holds {name!r}, which would land outside")
    mode = member.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(f"the archive holds {name!r}, which is a link or a device")
    parts = path.parts
    if member.is_dir() or len(parts) < 2 or parts[0] != _CONFIG:
        return None
    inner = parts[2:] if parts[1] == LOCAL_USER else parts[1:]
    # An agent's folder is flat.
    return inner[0] if len(inner) == 1 else None
