"""Programs in processes of their own: they end when they are no longer needed, with all that they started."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import httpx
import psutil

from toolweave.errors import Interrupted, ServerError

_START_SECONDS = 300
_STOP_SECONDS = 30
_TICK = 0.2  # seconds between two looks at a program
_TELL_EVERY = 15  # seconds of waiting
_STDIN = 0


@contextmanager
def serve_model(model: str) -> Iterator[str]:
    """Serve a model on a free local port and yield its `api_base`.

    The server ends with the block, or with this process, however that ends. Raises ServerError when the server ends
    or does not answer within five minutes.
    """
    port = free_port()
    command = [sys.executable, "-m", "toolweave", "deploy", "--ckpt_dir", model, "--port", str(port)]
    command += ["--served_model_name", model, "--end_with_stdin"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as server:
        try:
            wait_until_healthy(server, f"http://127.0.0.1:{port}/health", "the model server", _START_SECONDS)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()


def end_with_stdin() -> None:
    """Stop this process as SIGTERM does once its standard input closes.

    Given a pipe, that is when the process that started this one is gone, however it ended: the system closes its end.
    """

    def watch() -> None:
        while os.read(_STDIN, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="toolweave-stdin", daemon=True).start()


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Yield what tells whether this process was told to stop, by SIGTERM or Ctrl+C, since the block began.

    Within the block neither ends the process: it has to ask, and end what it started. Main thread only.
    """
    told: list[int] = []
    # Nothing but this: a handler may run between any two instructions, also while a program is being started.
    former = {
        number: signal.signal(number, lambda number, _: told.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield lambda: bool(told)
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def run_program(line: Sequence[str], stopping: Callable[[], bool]) -> str:
    """Run a program to its end and return what it printed.

    Raises ServerError with the end of its messages when it fails, Interrupted when it had to stop.
    """
    try:
        program = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    except OSError as error:
        raise ServerError(f"cannot run {line[0]}: {error}") from error
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                printed, messages = program.communicate(timeout=_TICK)
                break
            if stopping():
                raise Interrupted("stopped", "run it again: it goes on where it was")
    finally:
        end_tree(program)
    if program.returncode:
        raise ServerError(f"{' '.join(line[:5])} … failed: {messages.strip()[-500:]}")
    return str(printed)


def wait_until_healthy(
    server: subprocess.Popen[bytes], url: str, name: str, seconds: float, stopping: Callable[[], bool] = lambda: False
) -> bool:
    """Wait for `url` to answer; return false when told to stop before. Says now and then that it still waits.

    Raises ServerError when the server ends first, or takes longer than `seconds`.
    """
    started = told = time.monotonic()
    with httpx.Client(timeout=2, trust_env=False) as client:
        while (now := time.monotonic()) < started + seconds:
            if stopping():
                return False
            if server.poll() is not None:
                raise ServerError(f"{name} ended with exit code {server.returncode}", "see its message above")
            with suppress(httpx.TransportError):
                if client.get(url).is_success:
                    return True
            if now > told + _TELL_EVERY:
                told = now
                print(f"{name} is still starting, for {now - started:.0f} s now", file=sys.stderr, flush=True)
            time.sleep(_TICK)
    raise ServerError(f"{name} did not answer at {url} within {seconds:g} s")


def wait_for_end(program: subprocess.Popen[bytes], stopping: Callable[[], bool]) -> None:
    """Return when a program has ended, or this process was told to stop."""
    while program.poll() is None and not stopping():
        time.sleep(_TICK)


def end_tree(
    program: subprocess.Popen[bytes] | subprocess.Popen[str] | psutil.Process, seconds: float = _STOP_SECONDS
) -> None:
    """End a program that leads a session of its own, and every process that it started.

    The program is asked first, and has `seconds` to end what it began.
    """
    tree: list[psutil.Process] = []
    if program.is_running() if isinstance(program, psutil.Process) else program.poll() is None:
        # Workers may lead sessions of their own; once their parent is gone, nothing tells whose they were.
        with suppress(psutil.NoSuchProcess):
            tree = psutil.Process(program.pid).children(recursive=True)
        program.terminate()
        with suppress(subprocess.TimeoutExpired, psutil.TimeoutExpired):
            program.wait(seconds)
    with suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    program.wait()


@contextmanager
def never_orphaned(program: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a program as `end_tree` does also when this process is killed within the block: another one minds it."""
    line = [sys.executable, "-c", f"from {__name__} import _mind; _mind({program.pid})"]
    # In a session of its own, so that Ctrl+C does not reach it.
    with subprocess.Popen(line, stdin=subprocess.PIPE, start_new_session=True):
        yield


def _mind(pid: int) -> None:
    program = psutil.Process(pid)
    # The pipe's other end closes when the process that started this one leaves its block or is gone.
    while os.read(_STDIN, 1024):
        pass
    if program.is_running():
        end_tree(program)


def free_port() -> int:
    """Return a port of this machine that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
