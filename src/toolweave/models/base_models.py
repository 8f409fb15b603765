"""Base models, loaded with the template that belongs to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from toolweave.errors import ModelError
from toolweave.models.dtypes import best_dtype
from toolweave.models.gguf import load_gguf
from toolweave.models.hub import HubId, download
from toolweave.models.locate import EMBEDDED_TOOLS, HINT, STARTER, resolve
from toolweave.models.qwen1 import is_qwen1, load_qwen1, load_tokenizer
from toolweave.models.template import ChatTemplate


class LoadedModel(NamedTuple):
    """A model ready to run, with the template that belongs to it."""

    model: PreTrainedModel
    template: ChatTemplate


def load(source: str, dtype: torch.dtype | None = None) -> LoadedModel:
    """Load weights and tokenizer. Never runs code that comes with a model.

    Raises ModelError when `source` is neither a model folder, a GGUF file, nor a hub id.
    """
    found = resolve(source)
    folder = Path(download(found)) if isinstance(found, HubId) else found
    logging.disable_progress_bar()
    dtype = dtype or best_dtype()
    try:
        if folder.suffix == ".gguf" and folder.is_file():
            model, tokenizer = load_gguf(folder, dtype)
            if source == EMBEDDED_TOOLS:
                model = _with_starter(model)
        elif is_qwen1(folder):
            model, tokenizer = load_qwen1(folder, dtype)
        else:
            model, tokenizer = _load_folder(folder, dtype)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot load a model from {source!r}: {reason}", HINT) from error
    model.config._name_or_path = source
    model.eval()
    return LoadedModel(model, ChatTemplate(tokenizer))


def load_template(source: str) -> ChatTemplate:
    """Load only tokenizer and chat template. Raises ModelError as `load` does."""
    found = resolve(source)
    folder = Path(download(found)) if isinstance(found, HubId) else found
    try:
        if folder.suffix == ".gguf" and folder.is_file():
            return ChatTemplate(AutoTokenizer.from_pretrained(folder.parent, gguf_file=folder.name))
        if is_qwen1(folder):
            return ChatTemplate(load_tokenizer(folder / "qwen.tiktoken"))
        return ChatTemplate(AutoTokenizer.from_pretrained(folder, trust_remote_code=False))
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(f"cannot load a tokenizer from {source!r}: {reason}", HINT) from error


def _load_folder(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if "auto_map" in json.loads((folder / "config.json").read_text("utf-8")):
        # transformers knows most models that once needed their own code; it asks, or fails, for the others.
        logging.set_verbosity_error()
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
    )
    return model, tokenizer


def _with_starter(model: PreTrainedModel) -> PreTrainedModel:
    merge = cast(Callable[[], object], PeftModel.from_pretrained(model, str(STARTER)).merge_and_unload)
    return cast(PreTrainedModel, merge())
