"""Files that a model may name: the uploads of the visit, by file name, and nothing else of the machine."""

from __future__ import annotations

import os
import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from tempfile import mkdtemp
from typing import Any

from toolweave.errors import ToolError


def uploads(kwargs: Mapping[str, Any]) -> dict[str, Path]:
    """Return the uploads of a tool call's `kwargs`, by file name."""
    return {Path(path).name: Path(path) for path in kwargs.get("append_files") or ()}


def upload(name: str, kwargs: Mapping[str, Any], suffixes: tuple[str, ...] = ()) -> Path:
    """Return the upload that a model calls `name`; folders before the name do not count.

    Raises ToolError when there is none, or its suffix is not one of `suffixes`.
    """
    known = uploads(kwargs)
    bare = PureWindowsPath(PurePosixPath(name.strip().removeprefix("file://")).name).name
    if bare not in known:
        raise ToolError(f"there is no upload called {bare!r}. Uploaded are: {', '.join(known) or 'none'}")
    if suffixes and known[bare].suffix.lower() not in suffixes:
        raise ToolError(f"{bare} is not one of {', '.join(suffixes)}")
    return known[bare]


class WorkFolder:
    """The folder of one tool of one agent, made when it is first asked for.

    It lies in `parent`, or in CODE_INTERPRETER_WORK_DIR, and stays; without either it is temporary and goes with
    the tool.
    """

    def __init__(self, parent: str | None = None) -> None:
        self._parent = parent
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """The folder. Raises ToolError where it cannot be made."""
        if self._path is None:
            parent = self._parent or os.environ.get("CODE_INTERPRETER_WORK_DIR")
            try:
                if parent:
                    Path(parent).mkdir(parents=True, exist_ok=True)
                    self._path = Path(mkdtemp(prefix="work-", dir=parent)).resolve()
                else:
                    self._path = Path(mkdtemp(prefix="toolweave-")).resolve()
                    weakref.finalize(self, shutil.rmtree, self._path, ignore_errors=True)
            except OSError as error:
                raise ToolError(f"cannot make a work folder: {error}") from error
        return self._path
