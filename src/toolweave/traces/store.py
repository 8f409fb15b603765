"""The trace store: every request of an app and its reply, linked to visits, flagged and reviewed."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Self

from toolweave.errors import DataError
from toolweave.traces import rows
from toolweave.traces.database import connect, explained
from toolweave.traces.linking import Step, anchors, lookups
from toolweave.traces.recognise import Recognised, recognise
from toolweave.traces.redaction import Redactor
from toolweave.traces.trace import Counts, Exchange, FeedbackKind, Filter, Flag, Trace, Verdict, Visit

DEFAULT_STORE = Path("traces.db")
EVERYTHING = Filter()
_PATIENCE = 5.0


class TraceStore:
    """A trace store in one SQLite file, which several processes and threads may use at a time.

    `create` makes the file if there is none. `patience` is how many seconds a lock of another process is waited for.
    What `redactor` strikes out never reaches the disk. Methods raise StoreError when the file cannot be used.
    """

    def __init__(
        self, path: Path, redactor: Redactor | None = None, *, create: bool = False, patience: float = _PATIENCE
    ) -> None:
        self.path = path
        self.redactor = redactor or Redactor()
        self._connection = connect(path, create=create, patience=patience)
        self._lock = RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    # --- writing -----------------------------------------------------------------------------

    def record(self, exchange: Exchange) -> str:
        """Store one exchange and return the id of its trace; on return it is committed."""
        return self.record_all([exchange])[0]

    def record_all(self, exchanges: Iterable[Exchange]) -> list[str]:
        """Store exchanges in one transaction, all or none, and return the ids of their traces."""
        clean = [self.redacted(exchange) for exchange in exchanges]
        with self._writing():
            return [self._insert(exchange) for exchange in clean]

    def redacted(self, exchange: Exchange) -> Exchange:
        """Return the exchange as it may be written."""
        reply, known = exchange.reply, exchange.secrets
        clean = replace(
            reply,
            text=self.redactor.text(reply.text, known),
            tool_calls=tuple(self.redactor.json(reply.tool_calls, known)),
        )
        return replace(exchange, request=self.redactor.json(exchange.request, known), reply=clean, secrets=())

    def give_feedback(self, trace: str, kind: FeedbackKind, text: str = "") -> None:
        """Note what the user of the app says of a reply: a thumb, or a correction in words."""
        found = self.trace(trace)
        with self._writing():
            values = (found.id, kind.value, self.redactor.text(text), time.time())
            self._connection.execute("INSERT INTO feedback VALUES (?, ?, ?, ?)", values)
            self._connection.execute("UPDATE traces SET due = 1 WHERE id = ?", [found.id])

    def review(self, trace: str, verdict: Verdict, reviewer: str, label: str | None = None) -> Trace:
        """Set the verdict on a trace; a corrected one needs its `label`, the reply it should have got."""
        if (verdict is Verdict.CORRECTED) != (label is not None):
            raise DataError("a corrected trace needs the corrected reply, and only that one has it")
        found = self.trace(trace)
        with self._writing():
            self._connection.execute(
                "UPDATE traces SET verdict = ?, label = ?, reviewer = ?, reviewed = ? WHERE id = ?",
                (verdict.value, label, reviewer, time.time(), found.id),
            )
        return self.trace(found.id)

    def set_flags(self, flags: Mapping[str, Sequence[Flag]], evaluated: Collection[str]) -> None:
        """Set the flags of traces, by trace id; flags of rules that were not `evaluated` stay as they are."""
        with self._writing():
            for trace, found in flags.items():
                old = [(trace, rule) for rule in evaluated]
                new = [(trace, flag.rule, flag.why) for flag in found]
                self._connection.executemany("DELETE FROM flags WHERE trace = ? AND rule = ?", old)
                self._connection.executemany(
                    "INSERT OR IGNORE INTO flags SELECT id, ?2, ?3 FROM traces WHERE id = ?1", new
                )
                self._connection.execute("UPDATE traces SET due = 0 WHERE id = ?", [trace])

    def forget(self, wanted: Filter) -> int:
        """Delete the traces of a filter for good, overwriting them, and return how many."""
        condition = rows.where(wanted)
        with self._writing():
            gone = f"DELETE FROM traces AS t WHERE {condition.sql}"  # noqa: S608  # values are bound
            count = self._connection.execute(gone, condition.parameters).rowcount
        with self._lock, explained(self.path):
            # The journal still holds what was deleted, until it is written back.
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return count

    # --- reading -----------------------------------------------------------------------------

    def trace(self, trace: str) -> Trace:
        """Return a trace by its id or the beginning of it. Raises DataError unless exactly one has it."""
        found = self._traces("substr(t.id, 1, ?) = ?", (len(trace), trace), limit=2)
        if len(found) != 1 or not trace:
            problem = "no trace" if not found else "more than one trace"
            raise DataError(f"{problem} has the id {trace!r}", "toolweave traces list shows the ids")
        return found[0]

    def visit(self, visit: str) -> Visit:
        """Return the whole visit by its id, or by the id of one of its traces; beginnings of ids will do."""
        with self._reading() as connection:
            found = connection.execute(
                "SELECT DISTINCT visit FROM traces WHERE substr(visit, 1, ?) = ? OR substr(id, 1, ?) = ? LIMIT 2",
                (len(visit), visit) * 2,
            ).fetchall()
        if len(found) != 1 or not visit:
            problem = "no visit" if not found else "more than one visit"
            raise DataError(f"{problem} has the id {visit!r}", "toolweave traces list shows the ids")
        return Visit(found[0]["visit"], tuple(self._traces("t.visit = ?", (found[0]["visit"],))))

    def traces(self, wanted: Filter = EVERYTHING) -> Iterator[Trace]:
        """Yield the traces of a filter, oldest first, a few at a time from the disk."""
        ids = self.ids(wanted)
        for start in range(0, len(ids), 100):
            marks = ", ".join("?" * len(ids[start : start + 100]))
            yield from self._traces(f"t.id IN ({marks})", tuple(ids[start : start + 100]))

    def ids(self, wanted: Filter = EVERYTHING) -> list[str]:
        """Return the ids of the traces of a filter, oldest first."""
        condition = rows.where(wanted)
        with self._reading() as connection:
            select = f"SELECT t.id FROM traces t WHERE {condition.sql} ORDER BY t.started, t.rowid"  # noqa: S608
            return [row["id"] for row in connection.execute(select, condition.parameters)]

    def visits(self, wanted: Filter = EVERYTHING, limit: int = 50, offset: int = 0) -> list[Visit]:
        """Return the whole visits that have a trace of the filter, the newest first."""
        condition = rows.where(wanted)
        with self._reading() as connection:
            select = (
                f"SELECT t.visit FROM traces t WHERE {condition.sql} "  # noqa: S608
                "GROUP BY t.visit ORDER BY max(t.started) DESC, max(t.rowid) DESC LIMIT ? OFFSET ?"
            )
            found = connection.execute(select, (*condition.parameters, limit, offset)).fetchall()
        return [Visit(row["visit"], tuple(self._traces("t.visit = ?", (row["visit"],)))) for row in found]

    def due(self) -> list[str]:
        """Return the ids of visits with something new since they were flagged last."""
        with self._reading() as connection:
            return [row["visit"] for row in connection.execute("SELECT DISTINCT visit FROM traces WHERE due")]

    def counts(self, wanted: Filter = EVERYTHING) -> Counts:
        """Return how many traces a filter has, in all and by verdict, rule, agent, tool and model."""
        condition = rows.where(wanted)

        def tally(column: str, source: str = "traces t") -> dict[str, int]:
            select = (
                f"SELECT {column} AS name, count(DISTINCT t.id) AS n FROM {source} "  # noqa: S608
                f"WHERE {condition.sql} GROUP BY 1 ORDER BY n DESC, name"
            )
            return {row["name"]: row["n"] for row in connection.execute(select, condition.parameters)}

        with self._reading() as connection:
            total = connection.execute(
                f"SELECT count(*), count(DISTINCT visit) FROM traces t WHERE {condition.sql}",  # noqa: S608
                condition.parameters,
            ).fetchone()
            return Counts(
                traces=total[0],
                visits=total[1],
                by_verdict=tally("t.verdict"),
                by_rule=tally("g.rule", "flags g JOIN traces t ON t.id = g.trace"),
                by_agent=tally("t.agent"),
                by_tool=tally("json_extract(j.value, '$.function.name')", "traces t, json_each(t.tools) j"),
                by_model=tally("t.model"),
            )

    # --- inside ------------------------------------------------------------------------------

    def _insert(self, exchange: Exchange) -> str:
        seen = recognise(exchange.request)
        trace, step, before = "t" + secrets.token_hex(6), Step.NEXT_TURN, self._predecessor(seen)
        visit, turn, query = "v" + trace[1:], 0, seen.query
        if before is not None:
            row, step = before
            visit, turn = row["visit"], row["turn"] + (step is Step.NEXT_TURN)
            query = row["query"] if step is Step.SAME_TURN else query
            # What comes next may say something about what came before: a correction, a failed call.
            self._connection.execute("UPDATE traces SET due = 1 WHERE id = ?", [row["id"]])
        previous = before[0]["id"] if before is not None else None
        rows.insert(self._connection, trace, visit, previous, turn, exchange, seen, query)
        keys = [(key, trace) for key in anchors(seen, query, exchange.reply)]
        self._connection.executemany("INSERT INTO anchors VALUES (?, ?)", keys)
        return trace

    def _predecessor(self, seen: Recognised) -> tuple[sqlite3.Row, Step] | None:
        for key, step in lookups(seen):
            # Of visits that look alike so far, one that has not gone on yet, the newest.
            row = self._connection.execute(
                "SELECT t.id, t.visit, t.turn, t.query FROM anchors a JOIN traces t ON t.id = a.trace WHERE a.key = ? "
                "ORDER BY EXISTS (SELECT 1 FROM traces n WHERE n.previous = t.id), t.started DESC LIMIT 1",
                [key],
            ).fetchone()
            if row is not None:
                return row, step
        return None

    def _traces(self, condition: str, parameters: tuple[object, ...], limit: int = -1) -> list[Trace]:
        with self._reading() as connection:
            select = f"SELECT t.* FROM traces t WHERE {condition} ORDER BY t.started, t.rowid LIMIT ?"  # noqa: S608
            return rows.read(connection, connection.execute(select, (*parameters, limit)).fetchall())

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock, explained(self.path):
            yield self._connection

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock, explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
