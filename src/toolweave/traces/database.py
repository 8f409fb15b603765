"""The SQLite file under the trace store: schema, opening, and errors said so that a user can mend them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolweave.errors import ToolweaveError

_APPLICATION = 0x74777472  # "twtr": tells a trace store from any other SQLite file
_VERSION = 1

_SCHEMA = """
CREATE TABLE traces (
    id TEXT PRIMARY KEY, visit TEXT NOT NULL, previous TEXT, turn INTEGER NOT NULL,
    started REAL NOT NULL, latency REAL NOT NULL, first_token REAL,
    source TEXT NOT NULL, status INTEGER NOT NULL, outcome TEXT NOT NULL,
    model TEXT NOT NULL, agent TEXT NOT NULL, dialect TEXT NOT NULL, tools TEXT NOT NULL, query TEXT NOT NULL,
    request TEXT NOT NULL, reply TEXT NOT NULL, tool_calls TEXT NOT NULL, finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER, completion_tokens INTEGER,
    verdict TEXT NOT NULL DEFAULT 'unreviewed', label TEXT, reviewer TEXT NOT NULL DEFAULT '', reviewed REAL,
    due INTEGER NOT NULL DEFAULT 1
) STRICT;
CREATE INDEX traces_by_visit ON traces (visit, started);
CREATE INDEX traces_by_previous ON traces (previous);
CREATE INDEX traces_by_time ON traces (started);
CREATE INDEX traces_due ON traces (visit) WHERE due;
CREATE TABLE anchors (
    key BLOB NOT NULL, trace TEXT NOT NULL REFERENCES traces ON DELETE CASCADE, PRIMARY KEY (key, trace)
) STRICT, WITHOUT ROWID;
CREATE INDEX anchors_by_trace ON anchors (trace);
CREATE TABLE flags (
    trace TEXT NOT NULL REFERENCES traces ON DELETE CASCADE, rule TEXT NOT NULL, why TEXT NOT NULL,
    PRIMARY KEY (trace, rule)
) STRICT;
CREATE INDEX flags_by_rule ON flags (rule);
CREATE TABLE feedback (
    trace TEXT NOT NULL REFERENCES traces ON DELETE CASCADE, kind TEXT NOT NULL, text TEXT NOT NULL, time REAL NOT NULL
) STRICT;
CREATE INDEX feedback_by_trace ON feedback (trace);
"""


class StoreError(ToolweaveError):
    """A trace store that cannot be opened, read or written: no such file, locked, disk full, of another kind."""


def connect(path: Path, *, create: bool, patience: float) -> sqlite3.Connection:
    """Open the store in WAL mode, only the owner may read it; `patience` is how many seconds a lock is waited for.

    Raises StoreError when there is no store and `create` is false, or the file is something else.
    """
    if not create and not path.is_file():
        raise StoreError(f"no trace store at {path}", "toolweave capture makes one; name it with --store FILE")
    with explained(path):
        # SQLite gives its journal files the same permissions.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA secure_delete = ON")  # what is forgotten is overwritten, not only unlinked
    # A commit is in the kernel's hands: killing the process loses nothing; only a power cut may take the last ones.
    connection.execute("PRAGMA synchronous = NORMAL")
    if _version(connection, path):
        return
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("BEGIN IMMEDIATE")
    if not _version(connection, path):  # another process may have been first
        for statement in _SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection, path: Path) -> int:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables and (application != _APPLICATION or version != _VERSION):
        raise StoreError(f"{path} is not a trace store of this version of toolweave", "name another file with --store")
    return version


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and the file system into StoreError with a hint."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"trace store {path}: {error}", _hint(str(error))) from error
    except OSError as error:
        raise StoreError(f"trace store {path}: {error.strerror or error}", "check the folder and --store") from error


def _hint(message: str) -> str:
    if "locked" in message:
        return "another process is writing to it; try again when it is done"
    if "full" in message or "I/O" in message:
        return "free some space on the disk"
    return "name another file with --store"
