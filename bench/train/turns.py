"""Workers take turns: each trains one step when it is told to, while all others wait.

Every worker is a process that trains in its own way and reports, at the end of each step, how long the step
took. It then blocks until its next turn. So one run compares the same rows, on the same machine, within
seconds of each other, and loading is never timed. Only the standard library: this runs in every environment.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PIPES = "BENCH_PIPES"


class Turns:
    """The worker's side. The clock runs from the word to go on until the step is over."""

    def __init__(self) -> None:
        told, tells = (int(number) for number in os.environ[_PIPES].split(","))
        self._told, self._tells = os.fdopen(told), os.fdopen(tells, "w")
        self._started = time.perf_counter()

    def over(self, **figures: Any) -> None:
        """Report the step that just ended, and wait for the next turn."""
        self._tell(seconds=time.perf_counter() - self._started, **figures)
        if not self._told.readline():
            raise SystemExit("the benchmark is gone")
        self._started = time.perf_counter()

    def finish(self, losses: Sequence[float], version: str) -> None:
        """Report what is known at the end of training: the loss of each optimiser step, and the peak memory."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._tell(losses=losses, version=version, peak_bytes=peak)

    def _tell(self, **figures: Any) -> None:
        self._tells.write(json.dumps(figures) + "\n")
        self._tells.flush()


class Worker:
    """The benchmark's side of one worker, whose output goes to the file `log`."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        told, go = os.pipe()
        heard, tells = os.pipe()
        self._log = log
        with log.open("w", encoding="utf-8") as output:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, _PIPES: f"{told},{tells}"},
                pass_fds=(told, tells),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        os.close(told)
        os.close(tells)
        self._go, self._heard = os.fdopen(go, "w"), os.fdopen(heard)

    def report(self) -> dict[str, Any]:
        """Wait for the worker's next report."""
        line = self._heard.readline()
        if not line:
            self._process.wait()
            tail = "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-15:])
            raise SystemExit(f"a worker ended early; the end of {self._log}:\n{tail}")
        return dict(json.loads(line))

    def turn(self) -> dict[str, Any]:
        """Let the worker go on until it reports again."""
        self._go.write("go\n")
        self._go.flush()
        return self.report()

    def end(self) -> None:
        """End the worker, wherever it is: ours would save first if it were asked to stop."""
        self._process.kill()
        self._process.wait()
