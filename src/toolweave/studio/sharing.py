"""Agents that others may talk to: each by a key of its own, which names its owner and nothing else."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from toolweave.data.json_files import read_json, write_json


@dataclass(frozen=True, slots=True)
class Share:
    """A shared agent and whose it is."""

    user: str
    agent: str


class Shares:
    """The shared agents by key, kept in a file that only this user of the machine can read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()

    def get(self, key: str) -> Share | None:
        """Return what a key opens, None for an unknown one."""
        found = self._read().get(key)
        return Share(**found) if found else None

    def key_of(self, share: Share) -> str:
        """Return the key of an agent, empty while it is not shared."""
        return next((key for key, row in self._read().items() if Share(**row) == share), "")

    def add(self, share: Share) -> str:
        """Share an agent and return its key, the one it has if it is shared already."""
        with self._lock:
            key = self.key_of(share) or secrets.token_urlsafe(18)
            write_json(self._path, self._read() | {key: {"user": share.user, "agent": share.agent}}, mode=0o600)
            return key

    def remove(self, share: Share) -> None:
        """Take an agent's key away: the links with it lead nowhere from now on."""
        with self._lock:
            write_json(self._path, {key: row for key, row in self._read().items() if Share(**row) != share}, mode=0o600)

    def _read(self) -> dict[str, dict[str, str]]:
        return read_json(self._path) if self._path.is_file() else {}
