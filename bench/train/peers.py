"""Each peer's own environment: newest release from PyPI on a CPU build of torch, made once and kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_TORCH = "torch==2.13.0"


class Peer(NamedTuple):
    """What to install, the worker that trains with it, and whether a batch is one row, accumulated."""

    packages: tuple[str, ...]
    worker: str
    options: Mapping[str, bool] = {}
    single: bool = False


PEERS = {
    "ms-swift": Peer(("ms-swift",), "peer_swift.py"),
    # ms-swift computes logits only on labels when a batch is one row.
    "ms-swift-1-row": Peer(("ms-swift",), "peer_swift.py", single=True),
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
