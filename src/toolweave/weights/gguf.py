"""A merged model as one GGUF file, for llama.cpp and Ollama.

The `gguf` package knows the tensor names and the number formats; what is told here is how the models of this package
lie in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import cast

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from toolweave.errors import ModelError
from toolweave.models.base_models import LoadedModel

_ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}


class GgufType(StrEnum):
    """How the weights are stored."""

    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"


_FORMATS = {
    GgufType.F32: (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    GgufType.F16: (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    GgufType.Q8_0: (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


def write_gguf(loaded: LoadedModel, path: Path, kind: GgufType, name: str) -> None:
    """Write a model into one GGUF file. Raises ModelError for models whose place in GGUF is not known here."""
    model, tokenizer = loaded.model, loaded.template.tokenizer
    config = model.config.get_text_config()
    if config.model_type not in _ARCHITECTURES:
        raise ModelError(
            f"GGUF export does not know models of type {config.model_type}",
            f"it knows {', '.join(_ARCHITECTURES)}; llama.cpp's convert_hf_to_gguf.py reads the merged folder, too",
        )
    if getattr(config, "rope_scaling", None) and config.rope_parameters.get("rope_type") not in (None, "default"):
        raise ModelError(f"GGUF export does not know RoPE of type {config.rope_parameters['rope_type']}")
    architecture = _ARCHITECTURES[config.model_type]
    number, file_type = _FORMATS[kind]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_shape(writer, config)
    _add_tokenizer(writer, tokenizer, config.vocab_size, loaded.template.end_id)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for key, tensor in _tensors(model, config):
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ModelError(f"GGUF export does not know the weights {key}")
        weights = tensor.float().numpy()
        stored = number if weights.ndim > 1 else gguf.GGMLQuantizationType.F32
        quantized = cast(NDArray[np.uint8], gguf.quants.quantize(weights, stored))
        writer.add_tensor(target, quantized, raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def modelfile(gguf_name: str, stop: tuple[str, ...], max_length: int) -> str:
    """Return Ollama's Modelfile for a GGUF file beside it; the chat template travels inside the GGUF."""
    stops = "".join(f"PARAMETER stop {json.dumps(word, ensure_ascii=False)}\n" for word in stop)
    return f"FROM ./{gguf_name}\nPARAMETER temperature 0\nPARAMETER num_ctx {max_length}\n{stops}"


def _add_shape(writer: gguf.GGUFWriter, config: PreTrainedConfig) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerBase, vocabulary: int, end_id: int) -> None:
    added = tokenizer.added_tokens_decoder
    words = {index: word for word, index in tokenizer.get_vocab().items()}
    kinds = []
    for index in range(vocabulary):
        if index not in words:
            words[index] = f"[PAD{index}]"
            kinds.append(gguf.TokenType.UNUSED)
        elif index in added:
            kinds.append(gguf.TokenType.CONTROL if added[index].special else gguf.TokenType.USER_DEFINED)
        else:
            kinds.append(gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(tokenizer))
    writer.add_token_list([words[index] for index in range(vocabulary)])
    writer.add_token_types(kinds)
    writer.add_token_merges(_merges(tokenizer))
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(end_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    # Only the chat template opens turns.
    writer.add_add_bos_token(False)
    writer.add_chat_template(cast(str, tokenizer.chat_template))


def _description(tokenizer: PreTrainedTokenizerBase) -> dict[str, dict[str, object]]:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelError("GGUF export needs a model with a fast tokenizer (tokenizer.json)")
    return cast(dict[str, dict[str, object]], json.loads(tokenizer.backend_tokenizer.to_str()))


def _merges(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    model = _description(tokenizer)["model"]
    if model["type"] != "BPE":
        raise ModelError(f"GGUF export knows byte-level BPE tokenizers, not {model['type']}")
    merges = cast(list[str | list[str]], model["merges"])
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def _pre_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return llama.cpp's name of how text is cut before BPE."""
    rule = json.dumps(_description(tokenizer)["pre_tokenizer"])
    if "Digits" in rule:
        return "smollm"
    if r"\\p{N}{1,3}" in rule:
        return "llama-bpe"
    if r"\\p{N}" in rule:
        return "qwen2"
    if "ByteLevel" in rule:
        return "gpt-2"
    raise ModelError("GGUF export does not know how this tokenizer cuts text")


def _tensors(model: PreTrainedModel, config: PreTrainedConfig) -> Iterator[tuple[str, Tensor]]:
    tied = config.tie_word_embeddings
    for key, tensor in model.state_dict().items():
        if tied and key.startswith("lm_head"):
            continue
        if config.model_type == "llama" and ".self_attn.q_proj." in key:
            yield key, _interleaved(tensor, config.num_attention_heads)
        elif config.model_type == "llama" and ".self_attn.k_proj." in key:
            yield key, _interleaved(tensor, config.num_key_value_heads)
        else:
            yield key, tensor


def _interleaved(weights: Tensor, heads: int) -> Tensor:
    """Reorder rows for llama.cpp, which rotates neighbours where transformers rotates halves."""
    shape = weights.shape
    return torch.reshape(weights, (heads, 2, shape[0] // heads // 2, *shape[1:])).swapaxes(1, 2).reshape(shape)
