"""`toolweave.json`: what must travel with weights so that train and serve agree; folders written whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from toolweave.errors import ModelError

_NAME = "toolweave.json"
_SEAL = "files.json"
_DRAFT, _OLD = ".draft", ".old"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The contract of an adapter or merged model: its base, chat template and dialects."""

    base: str
    template_hash: str
    dialects: tuple[str, ...] = ()

    def save(self, folder: Path) -> None:
        """Write the manifest into a model folder."""
        (folder / _NAME).write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> Manifest | None:
        """Read the manifest of a folder; None when it has none. Raises ModelError when it is broken."""
        path = folder / _NAME
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text("utf-8"))
            return cls(content["base"], content["template_hash"], tuple(content["dialects"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is not a manifest of toolweave: {error}") from error

    @classmethod
    def of_adapter(cls, folder: Path) -> Manifest:
        """Read the manifest of an adapter. Raises ModelError when it has none, or a broken one."""
        manifest = cls.load(folder)
        if manifest is None:
            raise ModelError(f"{folder} has no toolweave.json, so its base model is unknown")
        return manifest

    def check_template(self, template_hash: str, where: Path) -> None:
        """Raise ModelError unless the template is the one the weights were trained with."""
        if template_hash != self.template_hash:
            raise ModelError(
                f"the chat template or vocabulary of {where} changed since training "
                f"({template_hash}, trained with {self.template_hash})",
                "restore tokenizer files and chat template of the training run",
            )


@contextmanager
def replace_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside `target` that takes its place at the end, whole or not at all.

    At every moment, also after a power cut, the old folder or the new one is complete and on disk. Between two
    renames the old one has a hidden name only: the next call, or `restore_folder`, gives it its name back. Raises
    ModelError when the disk is full; an existing `target` then stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    restore_folder(target)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", suffix=_DRAFT, dir=target.parent))
    try:
        yield draft
        draft.chmod(0o755)
        _sync(draft)
        if target.exists():
            target.rename(_aside(target))
        draft.rename(target)
        _sync_one(target.parent)
        shutil.rmtree(_aside(target), ignore_errors=True)
    except BaseException as error:
        restore_folder(target)
        shutil.rmtree(draft, ignore_errors=True)
        if _disk_is_full(error):
            raise ModelError(f"no space left to save {target}", "free some disk space and run it again") from error
        raise


def restore_folder(target: Path) -> None:
    """Give a folder back that a `replace_folder` call, killed between its renames, left under its hidden name."""
    old = _aside(target)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.is_dir():
        old.rename(target)


def restore_folders(parent: Path) -> None:
    """Do the same for every folder of `parent`."""
    for old in parent.glob(f".*{_OLD}"):
        restore_folder(parent / old.name[1 : -len(_OLD)])


def remove_drafts(parent: Path) -> None:
    """Remove what killed `replace_folder` calls left unfinished in `parent`."""
    for draft in parent.glob(f".*{_DRAFT}"):
        shutil.rmtree(draft, ignore_errors=True)


def seal(folder: Path) -> None:
    """Write the size and SHA-256 of every file of `folder` into it, so that `broken` can tell it is whole."""
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != _SEAL
    }
    (folder / _SEAL).write_text(json.dumps(files, indent=2) + "\n", "utf-8")


def broken(folder: Path) -> str | None:
    """Return what is wrong with a sealed folder, None when every file is as it was written."""
    path = folder / _SEAL
    if not path.is_file():
        return f"it has no {_SEAL}, so toolweave did not write it, or not to its end"
    try:
        files = {
            str(name): (int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in json.loads(path.read_text("utf-8")).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"its {_SEAL} cannot be read ({error})"
    for name, (size, digest) in files.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
        if _sha256(file) != digest:
            return f"{name} has changed since it was written"
    return None


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}{_OLD}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _disk_is_full(error: BaseException) -> bool:
    """Tell ENOSPC, also as libraries in other languages report it."""
    return (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in str(error)
