"""`toolweave.json`: what must travel with weights so that train and serve agree."""

from __future__ import annotations

import errno
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

    Raises ModelError when the disk is full; an existing `target` then stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield draft
        draft.chmod(0o755)
        _sync(draft)
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if _disk_is_full(error):
            raise ModelError(f"no space left to save {target}", "free some disk space and run it again") from error
        raise


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def _disk_is_full(error: BaseException) -> bool:
    """Tell ENOSPC, also as libraries in other languages report it."""
    return (isinstance(error, OSError) and error.errno == errno.ENOSPC) or "No space left" in str(error)
