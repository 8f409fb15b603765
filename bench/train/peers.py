"""Each peer's own environment: newest release from PyPI on a CPU build of torch, made once and kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_TORCH = "torch==2.13.0"


class Peer(NamedTuple):
    """What to install, and the worker that trains with it."""

    packages: tuple[str, ...]
    worker: str
    options: Mapping[str, bool] = {}


PEERS = {
    "ms-swift": Peer(("ms-swift",), "peer_swift.py"),
    "trl": Peer(("trl", "peft"), "peer_trl.py", {"padding_free": False}),
    "trl-padding-free": Peer(("trl", "peft"), "peer_trl.py", {"padding_free": True}),
}


def python_of(name: str, root: Path) -> str:
    """Return the interpreter of a peer's environment, making it first if it is not whole."""
    packages = PEERS[name].packages
    folder = root / f"{packages[0]}-env"
    ready = folder / ".ready"
    python = folder / "bin" / "python"
    if not ready.exists():
        print(f"installing {', '.join(packages)} into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        for wanted in ((_TORCH,), packages):
            command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
            subprocess.run(command, check=True)
        ready.touch()
    return str(python)
