"""Which dialect a model speaks, as far as it can be told."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolweave.dialects import Dialect, get_dialect
from toolweave.models.client import ModelClient
from toolweave.models.interface import Model
from toolweave.weights.manifest import Manifest

_DEFAULT = "v06"


def detect_dialect(model: Model, llm: Mapping[str, Any]) -> Dialect:
    """Return the dialect of a model that is asked by `llm`.

    In this order: native calls where `is_function_call` says so; the manifest beside the weights, where `model` is
    a folder; what the server tells in /v1/models, as ours does; v06. Raises ToolweaveError for a dialect that this
    version does not know.
    """
    if llm.get("is_function_call"):
        return get_dialect("native")
    folder = Path(str(llm.get("model", "")))
    manifest = Manifest.load(folder) if llm and folder.is_dir() else None
    if manifest is not None and manifest.dialects:
        return get_dialect(manifest.dialects[0])
    told = model.dialect() if isinstance(model, ModelClient) and model.may_tell_dialect else None
    return get_dialect(told or _DEFAULT)
