"""Writing traces beside the answers: many in one commit, and never at the price of an answer."""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from threading import Condition, Thread
from typing import NamedTuple

from toolweave.traces.database import StoreError
from toolweave.traces.store import TraceStore
from toolweave.traces.trace import Exchange
from toolweave.types import Json

log = logging.getLogger("toolweave.traces")

_BATCH = 64
_BACKLOG = 2000
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class RecorderState:
    """Since the start: exchanges recorded, waiting to be, and lost; `problem` says why it does not record just now."""

    recorded: int = 0
    waiting: int = 0
    lost: int = 0
    problem: str = ""

    def to_json(self) -> Json:
        """Return the numbers by name, and `status`: `ok` or `not recording`."""
        return {"status": "not recording" if self.problem else "ok", **asdict(self)}


class _Job(NamedTuple):
    exchange: Exchange
    done: Future[bool]


class Recorder:
    """Records exchanges in a thread of its own.

    When the store cannot be written (locked, disk full), exchanges wait in memory, at most `backlog` of them, and
    nobody waits for them: `state` counts what waits and what was lost.
    """

    def __init__(self, store: TraceStore, backlog: int = _BACKLOG) -> None:
        self.store = store
        self._backlog = backlog
        self._jobs: deque[_Job] = deque()
        self._changed = Condition()
        self._recorded = self._lost = 0
        self._problem = ""
        self._closing = False
        self._thread = Thread(target=self._run, name="trace-recorder", daemon=True)
        self._thread.start()

    @property
    def state(self) -> RecorderState:
        """The numbers as they are now."""
        with self._changed:
            return RecorderState(self._recorded, len(self._jobs), self._lost, self._problem)

    def submit(self, exchange: Exchange) -> Future[bool]:
        """Hand an exchange over. The future is True once it is committed, False if the answer should not wait."""
        job = _Job(exchange, Future())
        with self._changed:
            full = len(self._jobs) >= self._backlog
            if full or self._closing:
                self._lost += 1
            else:
                self._jobs.append(job)
                self._changed.notify()
            if full or self._problem or self._closing:
                job.done.set_result(False)
        return job.done

    def close(self) -> None:
        """Write what waits, if it can be written, and end the thread; the store stays open."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if self._lost:
            log.warning("%d exchanges were not recorded", self._lost)

    def _run(self) -> None:
        while batch := self._next():
            try:
                self.store.record_all([job.exchange for job in batch])
            except StoreError as error:
                self._failed(str(error).partition("\n")[0])
            except Exception:
                # One that cannot be stored must not keep the others from it.
                self._one_by_one(batch)
            else:
                self._written(len(batch), len(batch))

    def _next(self) -> list[_Job]:
        """Return the next jobs, which stay in line until they are written; none when it is time to end."""
        with self._changed:
            if self._problem and not self._closing:
                self._changed.wait_for(lambda: self._closing, _RETRY_SECONDS)
            self._changed.wait_for(lambda: self._jobs or self._closing)
            return [self._jobs[index] for index in range(min(_BATCH, len(self._jobs)))]

    def _one_by_one(self, batch: list[_Job]) -> None:
        for job in batch:
            try:
                self.store.record(job.exchange)
            except StoreError as error:
                self._failed(str(error).partition("\n")[0])
                return
            except Exception:
                log.exception("an exchange cannot be recorded")
                self._written(1, 0)
            else:
                self._written(1, 1)

    def _written(self, taken: int, recorded: int) -> None:
        with self._changed:
            jobs = [self._jobs.popleft() for _ in range(taken)]
            self._recorded += recorded
            self._lost += taken - recorded
            recovered, self._problem = bool(self._problem), ""
        for job in jobs:
            if not job.done.done():
                job.done.set_result(True)
        if recovered:
            log.warning("recording again")

    def _failed(self, problem: str) -> None:
        with self._changed:
            first, self._problem = not self._problem, problem
            waiting = [job for job in self._jobs if not job.done.done()]
            if self._closing:
                self._lost += len(self._jobs)
                self._jobs.clear()
        for job in waiting:
            job.done.set_result(False)
        if first:
            log.warning("not recording, answers pass through: %s", problem)
