"""Qwen-1 chat models (qwen/Qwen-7B-Chat and its sizes) without their remote code.

Their checkpoints are Qwen2 under other names: `c_attn` is q, k and v with bias in one matrix, `w2` is the
gate and `w1` the up projection, and `qwen.tiktoken` is the same byte-level BPE. So they are read as Qwen2
and saved as Qwen2, which every server runs.

It differs from the original code in one thing: beyond the training length (`seq_length`, 8192 for the 7B)
the original scales attention by log n and stretches the rotary base (dynamic NTK). Neither is done here, so
longer prompts are not meant to work; up to that length the logits are the same.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from toolweave.errors import ModelError

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205)))
_END, _TURN_END = SPECIAL_TOKENS[0], SPECIAL_TOKENS[2]
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TOP = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.ln_f.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
_LAYER = {
    "ln_1.weight": "input_layernorm.weight",
    "ln_2.weight": "post_attention_layernorm.weight",
    "attn.c_proj.weight": "self_attn.o_proj.weight",
    "mlp.w1.weight": "mlp.up_proj.weight",
    "mlp.w2.weight": "mlp.gate_proj.weight",
    "mlp.c_proj.weight": "mlp.down_proj.weight",
}


def is_qwen1(folder: Path) -> bool:
    """Tell whether a model folder holds a Qwen-1 checkpoint."""
    config = folder / "config.json"
    return config.is_file() and json.loads(config.read_text("utf-8")).get("model_type") == "qwen"


def load_qwen1(folder: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return a Qwen-1 checkpoint as Qwen2, with its tokenizer and ChatML template.

    Raises ModelError when weights are missing, surplus or of another shape.
    """
    config = _config(json.loads((folder / "config.json").read_text("utf-8")))
    weights = {name: tensor.to(dtype) for name, tensor in _weights(folder)}
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in Qwen2ForCausalLM(config).state_dict().items()}
    for name in sorted(expected.keys() ^ weights.keys()):
        raise ModelError(f"{folder}: the weight {name} is {'missing' if name in expected else 'unknown'}", _HINT)
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise ModelError(f"{folder}: {name} is {[*weights[name].shape]} instead of {[*shape]}", _HINT)
    model: PreTrainedModel = Qwen2ForCausalLM.from_pretrained(None, config=config, state_dict=weights, dtype=dtype)
    tokenizer = load_tokenizer(folder / "qwen.tiktoken", config.max_position_embeddings)
    ends = [tokenizer.convert_tokens_to_ids(token) for token in (_TURN_END, _END)]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[1])
    return model, tokenizer


def load_tokenizer(path: Path, max_length: int | None = None) -> PreTrainedTokenizerFast:
    """Return a `qwen.tiktoken` vocabulary as a fast tokenizer. Raises ModelError when it is no such file."""
    ranks = _ranks(path)
    letters = bytes_to_unicode()

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    # tiktoken joins any two neighbours that make a token, the lowest rank first: so each way to split a token
    # into two is a merge.
    merges = [
        (spelled(token[:at]), spelled(token[at:]))
        for token in ranks
        for at in range(1, len(token))
        if token[:at] in ranks and token[at:] in ranks
    ]
    vocabulary = {spelled(token): rank for token, rank in ranks.items()}
    tokenizer = Tokenizer(BPE(vocabulary, merges, ignore_merges=True))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_TURN_END,
        pad_token=_END,
        additional_special_tokens=[SPECIAL_TOKENS[1]],
        clean_up_tokenization_spaces=False,
        model_max_length=max_length,
    )
    fast.chat_template = CHATML
    return fast


def _ranks(path: Path) -> dict[bytes, int]:
    """Return the tokens of a tiktoken file in the order of their rank."""
    try:
        lines = [line.split() for line in path.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    except (OSError, ValueError, binascii.Error) as error:
        raise ModelError(f"cannot read the vocabulary {path}: {error}", _HINT) from error
    return dict(sorted(ranks.items(), key=lambda item: item[1]))


def _config(old: dict[str, Any]) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=old["vocab_size"],
        hidden_size=old["hidden_size"],
        # One projection of the two that the original counts together.
        intermediate_size=old["intermediate_size"] // 2,
        num_hidden_layers=old["num_hidden_layers"],
        num_attention_heads=old["num_attention_heads"],
        num_key_value_heads=old["num_attention_heads"],
        max_position_embeddings=old.get("seq_length", 8192),
        rms_norm_eps=old.get("layer_norm_epsilon", 1e-6),
        rope_parameters={"rope_type": "default", "rope_theta": float(old.get("rotary_emb_base", 10000))},
        tie_word_embeddings=False,
        use_sliding_window=False,
        bos_token_id=None,
        architectures=["Qwen2ForCausalLM"],
    )


def _weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights under their Qwen2 names, one file and one tensor at a time."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} has no *.safetensors", _HINT)
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  # not a dict
                    yield from _renamed(name, file.get_tensor(name))
        except SafetensorError as error:
            raise ModelError(f"cannot read {path}: {error}", _HINT) from error


def _renamed(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    if name in _TOP:
        yield _TOP[name], tensor
        return
    prefix, _, rest = name.partition("transformer.h.")
    number, _, part = rest.partition(".")
    if prefix or not number.isdigit():
        raise ModelError(f"a Qwen-1 checkpoint has no weight {name}", _HINT)
    layer = f"model.layers.{number}."
    if part.startswith("attn.c_attn."):
        kind = part.removeprefix("attn.c_attn.")
        for projection, chunk in zip("qkv", tensor.chunk(3), strict=True):
            yield f"{layer}self_attn.{projection}_proj.{kind}", chunk
    elif part in _LAYER:
        yield layer + _LAYER[part], tensor
    elif part != "attn.rotary_emb.inv_freq":
        raise ModelError(f"a Qwen-1 checkpoint has no weight {name}", _HINT)


_HINT = "download the whole checkpoint again: config.json, qwen.tiktoken and every *.safetensors"
