"""GGUF files as plain models.

Reading one takes transformers half a minute and several passes, so the first load leaves an unpacked
copy in the user's cache, from which later ones take a second. The copy belongs to the file's content: it is
found again when the file is moved, and not when it has changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers import __version__ as transformers_version
from transformers import modeling_gguf_pytorch_utils as transformers_gguf
from transformers.utils import logging

_FORMAT = 2


def load_gguf(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return model and tokenizer of a GGUF file. Raises OSError, ValueError or KeyError for a broken one."""
    copy = _cache_folder(path, dtype)
    if copy.is_dir():
        try:
            return _load_copy(copy, dtype)
        except (OSError, ValueError, KeyError, SafetensorError):  # damaged: it is only a copy
            shutil.rmtree(copy, ignore_errors=True)
    model, tokenizer = _unpack(path, dtype)
    _keep(copy, model, tokenizer)
    return model, tokenizer


def _load_copy(copy: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(copy)
    return AutoModelForCausalLM.from_pretrained(copy, dtype=dtype, use_safetensors=True), tokenizer


def _unpack(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    with _quiet():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    # The weights are plain tensors now; the notes of how they were packed would break saving.
    del model.config.quantization_config
    setattr(model, "hf_quantizer", None)  # noqa: B010  # unknown to the type
    return model, tokenizer


def _cache_folder(path: Path, dtype: torch.dtype) -> Path:
    """Return where the unpacked copy of a file with just this content lies, or would lie."""
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    key = f"{_FORMAT} {content} {dtype} {transformers_version}"
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "toolweave" / "gguf" / hashlib.sha256(key.encode()).hexdigest()[:16]


def _keep(target: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Save the copy, whole or not at all; a cache that cannot be written is only slower."""
    draft: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=target.parent))
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        draft.rename(target)
    except Exception:  # a full or read-only disk, as OSError or as safetensors' own error
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' advice on packed weights and its progress bar from the user's terminal."""
    module = cast(Any, transformers_gguf)
    verbosity, bar = logging.get_verbosity(), module.tqdm
    logging.set_verbosity_error()
    module.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        module.tqdm = bar
        logging.set_verbosity(verbosity)
