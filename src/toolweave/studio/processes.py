"""Programs that outlive the Studio: each leads a session of its own, and a file in its folder names it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from toolweave.data.json_files import read_json, write_json
from toolweave.errors import ServerError
from toolweave.types import Json

_SAME_START = 2.0  # seconds that two readings of a process's start may differ
_LESS_URGENT = 5  # the page must answer while a model is trained
# A child that ended stays until its parent asks for its exit code; the list lets Studios ask.
_children: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True, slots=True)
class Detached:
    """A toolweave command in a process of its own.

    `NAME.json` in `folder` says which process it is, `NAME.log` what it printed: any later Studio finds both.
    """

    folder: Path
    name: str

    def start(self, arguments: Sequence[str]) -> None:
        """Start `toolweave ARGUMENTS` unless it is running. Raises ServerError when that is not possible."""
        if self.alive():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self.log.open("ab") as output:
                begins = output.tell()
                program = subprocess.Popen(
                    [sys.executable, "-m", "toolweave", *arguments],
                    stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
        except OSError as error:
            raise ServerError(f"cannot start toolweave {arguments[0]}: {error}", f"see {self.folder}") from error
        _children.append(program)
        with suppress(psutil.Error):
            process = psutil.Process(program.pid)
            process.nice(min(process.nice() + _LESS_URGENT, 19))
            write_json(self._file, {"pid": program.pid, "created": process.create_time(), "log_begins": begins})

    def alive(self) -> bool:
        """Tell whether the program runs; another one that got its number since does not count."""
        return self._process() is not None

    def ask_to_stop(self) -> None:
        """Ask the program to end: a training run saves its step first. Does nothing if it has ended.

        SIGTERM and not SIGINT: a program that was started in the background of a shell may ignore the latter.
        """
        process = self._process()
        if process is None:
            return
        write_json(self._file, {**self._record(), "stop_asked": time.time()})
        with suppress(psutil.NoSuchProcess):
            process.terminate()

    @property
    def known(self) -> bool:
        """Whether it was ever started here."""
        return self._file.is_file()

    @property
    def stop_asked(self) -> bool:
        """Whether it was asked to stop since it was started last."""
        return "stop_asked" in self._record()

    @property
    def log(self) -> Path:
        """The file of what it printed."""
        return self.folder / f"{self.name}.log"

    def said(self, limit: int = 20_000) -> str:
        """Return the end of what it printed since it was started last, at most `limit` bytes of it."""
        try:
            with self.log.open("rb") as output:
                size = output.seek(0, 2)
                output.seek(max(int(self._record().get("log_begins", 0)), size - limit))
                return output.read().decode("utf-8", "replace")
        except OSError:
            return ""

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.name}.json"

    def _record(self) -> Json:
        return read_json(self._file) if self._file.is_file() else {}

    def _process(self) -> psutil.Process | None:
        _reap()
        record = self._record()
        try:
            process = psutil.Process(int(record["pid"]))
            same = abs(process.create_time() - float(record["created"])) < _SAME_START
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (KeyError, TypeError, ValueError, psutil.Error):
            return None


def _reap() -> None:
    _children[:] = [child for child in _children if child.poll() is None]
