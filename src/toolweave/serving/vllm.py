"""The production server: the real vLLM, in an environment of its own, started and stopped by us."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from transformers import AutoTokenizer

from toolweave.dialects import ToolsIn, get_dialect
from toolweave.errors import ModelError
from toolweave.models.template import ChatTemplate
from toolweave.serving.process import (
    end_tree,
    free_port,
    never_orphaned,
    stop_signals,
    wait_for_end,
    wait_until_healthy,
)
from toolweave.serving.server import check_port
from toolweave.serving.vllm_environment import prepare
from toolweave.weights.manifest import Manifest

_START_SECONDS = 1800
_STOP_SECONDS, _ABORT_SECONDS = 30, 3
# Written in our own tags, which are those of Hermes: vLLM then sends calls as OpenAI's `tool_calls`.
_NATIVE_CALLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
# As the embedded server limits replies: by llguidance, and without the blanks that a small model would not end.
_LIMITED = ("--structured-outputs-config", '{"backend": "guidance", "disable_any_whitespace": true}')
# vLLM is not to import from here.
_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


def command(
    python: Path, ckpt_dir: Path, host: str, port: int, names: Sequence[str], flags: Sequence[str] = ()
) -> list[str]:
    """Return the command line of vLLM's OpenAI server; `flags` go to it as they are and win over ours."""
    model = ["--model", str(ckpt_dir), "--host", host, "--port", str(port), "--served-model-name", *names]
    return [str(python), "-m", "vllm.entrypoints.openai.api_server", *model, *_LIMITED, *flags]


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
    """Serve a merged model with vLLM until it ends or is told to stop; return its exit code, 0 when told to stop.

    Port 0 takes a free one. Told to stop, also while vLLM is being installed or starts, all of its processes end;
    and so they do when this process is killed once vLLM was started.

    Raises ModelError for a folder that is no merged model or whose chat template changed, ServerError when the port
    cannot be had, or vLLM cannot be installed or does not come up.
    """
    if not (ckpt_dir / "config.json").is_file():
        raise ModelError(
            f"{ckpt_dir} is not a merged model", f"toolweave export --ckpt_dir {ckpt_dir} --merge_lora true"
        )
    manifest = Manifest.load(ckpt_dir)
    if manifest is not None:
        manifest.check_template(ChatTemplate(AutoTokenizer.from_pretrained(str(ckpt_dir))).hash, ckpt_dir)
    port = port or free_port()
    check_port(host, port)
    names = model_names(ckpt_dir, served_model_name)
    line = command(prepare(), ckpt_dir, host, port, names, [*_flags(manifest), *flags])
    environ = {name: value for name, value in os.environ.items() if name not in _OURS}
    environ |= {"VLLM_NO_USAGE_STATS": "1", **({"VLLM_API_KEY": api_key} if api_key else {})}
    url = f"http://{_reachable(host)}:{port}"
    with stop_signals() as stopping:
        server = subprocess.Popen(line, env=environ, start_new_session=True)
        with never_orphaned(server):
            healthy = False
            try:
                healthy = wait_until_healthy(server, f"{url}/health", "vLLM", _START_SECONDS, stopping)
                if healthy:
                    print(f"vLLM serves {names[0]} at {url}/v1 (Ctrl+C stops it)", flush=True)
                    wait_for_end(server, stopping)
            finally:
                # While it starts, vLLM does not listen to signals, and has begun nothing that it would have to end.
                end_tree(server, _STOP_SECONDS if healthy else _ABORT_SECONDS)
        return 0 if stopping() else server.returncode


def _flags(manifest: Manifest | None) -> Sequence[str]:
    """Return what vLLM has to be told about how the model was tuned."""
    native = manifest is not None and any(get_dialect(n).tools_in is ToolsIn.REQUEST for n in manifest.dialects)
    return _NATIVE_CALLS if native else ()


def _reachable(host: str) -> str:
    """Return the address at which this machine reaches a server that listens on `host`, as URLs have it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104  # not listened on
    return f"[{host}]" if ":" in host else host
