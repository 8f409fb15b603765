"""Data sets of the Hugging Face hub and of ModelScope, through their SDKs.

`HF::owner/name` and `MS::owner/name` name the hub, as in SWIFT; a bare `owner/name` is a ModelScope id,
or a Hugging Face one with USE_HF=1. What is in the hubs' caches is used without network.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from toolweave.errors import DataError

_ID = re.compile(r"(?:(?P<hub>HF|MS)::)?(?P<name>[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*)", re.ASCII)
_PATTERNS = [f"*{suffix}" for suffix in (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".md")]
_HINT = "check the path, the id and the network; private data sets need a login of the hub's own command"


class Hub(StrEnum):
    """Where a data set lives."""

    HUGGING_FACE = "HF"
    MODELSCOPE = "MS"


@dataclass(frozen=True, slots=True)
class HubId:
    """A data set on a hub: `owner/name`."""

    hub: Hub
    name: str

    @classmethod
    def parse(cls, text: str) -> HubId | None:
        """Read `HF::owner/name`, `MS::owner/name` or `owner/name`; None for anything else, file names included."""
        found = _ID.fullmatch(text)
        if found is None or (not found["hub"] and re.search(r"\.(jsonl?|csv|tsv|parquet|arrow)$", text)):
            return None
        default = Hub.HUGGING_FACE if os.environ.get("USE_HF", "0") in ("1", "true", "True") else Hub.MODELSCOPE
        return cls(Hub(found["hub"]) if found["hub"] else default, found["name"])


def download(hub_id: HubId) -> Path:
    """Return the folder of a data set's files, from the cache or the network. Raises DataError."""
    try:
        return _download_hf(hub_id.name) if hub_id.hub is Hub.HUGGING_FACE else _download_ms(hub_id.name)
    except ImportError as error:
        raise _missing(hub_id.hub) from error
    except DataError:
        raise
    except Exception as error:
        # The SDKs raise errors of many libraries; all mean that the data set could not be had.
        raise DataError(f"cannot get data set {hub_id.hub}::{hub_id.name}: {_first_line(error)}", _HINT) from error


def push(path: Path, hub_id: HubId, *, private: bool = True) -> str:
    """Upload a file or folder to a data set on a hub, made if need be; return its address. Raises DataError."""
    if not path.exists():
        raise DataError(f"no such file: {path}", "check the path")
    try:
        if hub_id.hub is Hub.HUGGING_FACE:
            return _push_hf(path, hub_id.name, private)
        return _push_ms(path, hub_id.name, private)
    except ImportError as error:
        raise _missing(hub_id.hub) from error
    except Exception as error:
        raise DataError(f"cannot push to {hub_id.hub}::{hub_id.name}: {_first_line(error)}", _HINT) from error


def _download_hf(name: str) -> Path:
    from huggingface_hub import snapshot_download

    # Falls back to the cache by itself when the hub cannot be reached.
    return Path(snapshot_download(name, repo_type="dataset", allow_patterns=_PATTERNS))


def _download_ms(name: str) -> Path:
    from modelscope_hub.api import HubApi

    api = HubApi()
    try:
        return Path(api.download_repo(name, "dataset", allow_patterns=_PATTERNS))
    except Exception:
        try:
            return Path(api.download_repo(name, "dataset", local_files_only=True))
        except Exception as not_cached:
            # What is wrong with the network or the id says more than that there is no copy.
            raise (not_cached.__context__ or not_cached) from None


def _push_hf(path: Path, name: str, private: bool) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)
    if path.is_dir():
        info = api.upload_folder(repo_id=name, repo_type="dataset", folder_path=path, allow_patterns=_PATTERNS)
    else:
        info = api.upload_file(repo_id=name, repo_type="dataset", path_or_fileobj=path, path_in_repo=path.name)
    return str(info.commit_url)


def _push_ms(path: Path, name: str, private: bool) -> str:
    from modelscope_hub.api import HubApi

    api = HubApi()
    if not api.repo_exists(name, "dataset"):
        api.create_repo(name, "dataset", visibility="private" if private else "public")
    if path.is_dir():
        api.upload_folder(name, "dataset", path, allow_patterns=_PATTERNS, disable_tqdm=True)
    else:
        api.upload_file(repo_id=name, repo_type="dataset", path_or_fileobj=path, path_in_repo=path.name)
    return f"https://www.modelscope.cn/datasets/{name}"


def _missing(hub: Hub) -> DataError:
    sdk = "huggingface_hub" if hub is Hub.HUGGING_FACE else "modelscope_hub"
    return DataError(f"{sdk} is not installed", "pip install 'toolweave[hub]'")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
