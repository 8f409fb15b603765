"""A sandbox for code of unknown intent, made of bubblewrap's namespaces.

Inside there is no network, the system is read-only, nothing of the user's home is visible, and only the work folder
can be written. Limits hold for each process (rlimits) and for the whole tree (watched from outside); when it ends,
however it ends, the tree is gone with its process namespace.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import lru_cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from threading import Event
from typing import IO

import psutil

from toolweave.errors import ToolError

_HERE = Path(__file__).parent / "sandboxed"
_HINT = "install bubblewrap (Debian: apt install bubblewrap) and allow user namespaces"
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/fonts", "/etc/ld.so.cache")
_NAMESPACES = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
_INSIDE = "/workspace"
_VARIABLES = {
    "HOME": _INSIDE,
    "LANG": "C.UTF-8",
    "MPLBACKEND": "module://figures",
    "MPLCONFIGDIR": "/tmp/matplotlib",  # noqa: S108
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
# Numbers that no account has.
_UIDS = count(1_900_000_000 + os.getpid() % 10_000 * 10_000)
_PROBE_SECONDS = 10
_LOOK_SECONDS = 0.05
_END_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Quota:
    """What the code may use. Memory, processes and disk are counted over all its processes."""

    seconds: float = 60.0
    cpu_seconds: int = 60
    memory: int = 1 << 30
    disk: int = 256 << 20
    processes: int = 64
    output: int = 1 << 20


class Stop(StrEnum):
    """Why code was stopped."""

    CANCELLED = "cancelled"
    TIME = "stopped: it took too long"
    MEMORY = "stopped: it took too much memory"
    PROCESSES = "stopped: it started too many processes"
    DISK = "stopped: it wrote too much to the disk"
    OUTPUT = "stopped: it printed too much"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the code ended; `stop` is None if it ended by itself."""

    output: str
    status: int
    stop: Stop | None = None


class Isolation(Enum):
    """How the namespaces are made."""

    OTHER_USER = "root makes them, and the code runs as a user that owns nothing"
    USER_NAMESPACE = "an ordinary user makes them, by a user namespace"


@lru_cache(maxsize=1)
def isolation() -> Isolation | str:
    """Return how a sandbox can be made here, or the reason why none can."""
    if sys.platform != "linux":
        return f"bubblewrap needs Linux, this is {sys.platform}"
    if shutil.which("bwrap") is None:
        return "the program bwrap is not installed"
    reason = ""
    for way in Isolation if os.geteuid() == 0 else (Isolation.USER_NAMESPACE,):
        try:
            with TemporaryDirectory() as folder:
                command = _command(way, Path(folder), "/dev/null", Quota())
                probe = subprocess.run(command, capture_output=True, timeout=_PROBE_SECONDS, text=True, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"bwrap does not run: {error}"
        if probe.returncode == 0:
            return way
        reason = (probe.stderr.strip().splitlines() or [f"bwrap ended with status {probe.returncode}"])[-1]
    return reason


def run_python(script: Path, quota: Quota, cancel: Event | None = None) -> Outcome:
    """Run a script in its folder, which the code can write, and return what it printed.

    Raises ToolError where no sandbox can be made: then nothing runs.
    """
    way = isolation()
    if isinstance(way, str):
        raise ToolError(f"no code runs here, since no sandbox can be made: {way}", _HINT)
    folder = script.parent.resolve()
    command = _command(way, folder, f"{_INSIDE}/{script.name}", quota)
    read, write = os.pipe()
    # A file, not a pipe: what the code prints waits for nobody.
    with TemporaryFile() as sink, os.fdopen(read, "rb") as info:
        command[1:1] = ["--info-fd", str(write)]
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, pass_fds=(write,), close_fds=True
            )
        finally:
            os.close(write)
        first = json.loads(info.read() or b"{}").get("child-pid")
        try:
            stop = _watch(process, folder, sink, quota, cancel or Event())
        finally:
            _kill(process, first)
        sink.seek(0)
        output = sink.read(quota.output).decode("utf-8", "replace")
    return Outcome(output, process.returncode, stop)


def _command(way: Isolation, folder: Path, script: str, quota: Quota) -> list[str]:
    """Return the command that runs a script in a sandbox with `folder` as the only one it can write."""
    command = ["bwrap", *_NAMESPACES, "--die-with-parent", "--new-session", "--clearenv", "--cap-drop", "ALL"]
    uid = 0
    if way is Isolation.OTHER_USER:
        # A user of its own for each run: limits by user are not shared, and files of other runs are closed.
        uid = next(_UIDS)
        os.chown(folder, uid, uid)
        for path in folder.rglob("*"):
            os.chown(path, uid, uid, follow_symlinks=False)
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        command += ["--unshare-user"]
    command += ["--perms", "0755", "--dir", "/etc"]
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), str(path)]
        elif path.exists():
            command += ["--ro-bind", str(path), str(path)]
    command += ["--proc", "/proc", "--dev", "/dev", "--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108
    # The interpreter with its libraries may live anywhere.
    prefixes = (sys.base_prefix, sys.exec_prefix, sys.prefix, str(Path(sys.executable).resolve().parent), str(_HERE))
    for prefix in dict.fromkeys(prefixes):
        if not Path(prefix).is_relative_to("/usr"):
            for parent in reversed(Path(prefix).parents[:-1]):
                command += ["--perms", "0755", "--dir", str(parent)]
            command += ["--ro-bind", prefix, prefix]
    command += ["--bind", str(folder), _INSIDE, "--chdir", "/"]
    variables = _VARIABLES | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    for name, value in variables.items():
        command += ["--setenv", name, value]
    limits = (uid, quota.cpu_seconds, quota.memory, quota.disk, quota.processes)
    return [*command, "--", sys.executable, "-I", "-B", str(_HERE / "run_code.py"), script, *map(str, limits)]


def _watch(process: subprocess.Popen[bytes], folder: Path, sink: IO[bytes], quota: Quota, cancel: Event) -> Stop | None:
    """Wait for the end, or say which limit was passed."""
    deadline = time.monotonic() + quota.seconds
    while process.poll() is None:
        if cancel.wait(_LOOK_SECONDS):
            return Stop.CANCELLED
        if time.monotonic() > deadline:
            return Stop.TIME
        memory, processes = _usage(process.pid)
        if memory > quota.memory:
            return Stop.MEMORY
        # bubblewrap itself is two of them.
        if processes > quota.processes + 2:
            return Stop.PROCESSES
        if _size(folder) > quota.disk:
            return Stop.DISK
        if os.fstat(sink.fileno()).st_size > quota.output:
            return Stop.OUTPUT
    return None


def _usage(pid: int) -> tuple[int, int]:
    """Return the resident bytes and the number of processes of a tree."""
    memory = processes = 0
    with suppress(psutil.Error):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with suppress(psutil.Error):
                memory += process.memory_info().rss
                processes += 1
    return memory, processes


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def _kill(process: subprocess.Popen[bytes], first: int | None) -> None:
    """End the tree and wait until it is gone; `first` is the first process of the namespace."""
    if process.poll() is None and first is not None:
        # With its first process the kernel ends the whole namespace, and bwrap follows.
        with suppress(ProcessLookupError):
            os.kill(first, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
    process.kill()
    process.wait()
