"""Models by hub id, from Hugging Face or ModelScope, without a line of their code run or fetched."""

from __future__ import annotations

import os
from typing import NamedTuple, cast

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from toolweave.errors import ModelError

# Weights as safetensors, the tokenizer and the configuration: no pickles, no Python.
_FILES = ["*.safetensors", "*.json", "*.jinja", "*.tiktoken", "*.model", "*.txt"]


class HubId(NamedTuple):
    """A model id with the revision after its @, if any."""

    id: str
    revision: str | None

    @classmethod
    def parse(cls, source: str) -> HubId | None:
        """Read `owner/name` or `owner/name@revision`; None when it is neither."""
        id_, _, revision = source.partition("@")
        owner, slash, name = id_.partition("/")
        if not slash or not owner or not name or "/" in name or owner.startswith(".") or os.path.isabs(id_):
            return None
        return cls(id_, revision or None)


def uses_modelscope(id_: str) -> bool:
    """Tell which hub an id means: as USE_HF says (1 or 0); else ModelScope for its own spelling `qwen/…`."""
    choice = os.environ.get("USE_HF", "").lower()
    if choice:
        return choice in ("0", "false", "no")
    return id_.startswith("qwen/")


def download(hub_id: HubId) -> str:
    """Return a local folder with the files of a model. Raises ModelError when it cannot be had."""
    if uses_modelscope(hub_id.id):
        return _from_modelscope(hub_id)
    # ModelScope's main branch is called master; nobody else's is.
    revision = None if hub_id.revision == "master" else hub_id.revision
    try:
        return snapshot_download(hub_id.id, revision=revision, allow_patterns=_FILES)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(f"cannot fetch {hub_id.id} from Hugging Face: {_first_line(error)}", _HINT) from error


def _from_modelscope(hub_id: HubId) -> str:
    try:
        from modelscope import snapshot_download as fetch
    except ImportError as error:
        raise ModelError(
            f"{hub_id.id} is a ModelScope id, and its client is not installed",
            "pip install 'toolweave[hub]', or set USE_HF=1 and use the Hugging Face id",
        ) from error
    try:
        return cast(str, fetch(hub_id.id, revision=hub_id.revision, allow_patterns=_FILES))
    except Exception as error:  # its client raises requests' and its own errors, and plain Exception
        raise ModelError(f"cannot fetch {hub_id.id} from ModelScope: {_first_line(error)}", _HINT) from error


_HINT = "check the id and the network, or give the folder of a downloaded model"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
