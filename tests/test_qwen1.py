"""Qwen-1 checkpoints read as Qwen2: the logits of a plain forward pass, the tokens of tiktoken."""

from __future__ import annotations

import base64
import importlib.util
import json
import random
import unicodedata
from pathlib import Path

import pytest
import tiktoken
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from toolweave.errors import ModelError
from toolweave.models import qwen1
from toolweave.models.base_models import load
from toolweave.types import Message

HIDDEN, HEADS, LAYERS, INNER, VOCABULARY = 32, 4, 2, 48, 480
CONFIG = {
    "model_type": "qwen", "architectures": ["QWenLMHeadModel"], "vocab_size": VOCABULARY, "hidden_size": HIDDEN,
    "intermediate_size": 2 * INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "kv_channels": 8,
    "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000, "seq_length": 64, "no_bias": True,
    "auto_map": {"AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"},
}  # fmt: skip


def real_vocabulary() -> Path:
    spec = importlib.util.find_spec("dashscope")
    if spec is None or spec.origin is None:
        pytest.skip("dashscope, which carries the real vocabulary, is not installed")
    return Path(spec.origin).parent / "resources" / "qwen.tiktoken"


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) * 0.2

    made = {"transformer.wte.weight": some(VOCABULARY, HIDDEN), "lm_head.weight": some(VOCABULARY, HIDDEN),
            "transformer.ln_f.weight": 1 + some(HIDDEN)}  # fmt: skip
    for layer in range(LAYERS):
        at = f"transformer.h.{layer}."
        made |= {
            f"{at}ln_1.weight": 1 + some(HIDDEN), f"{at}ln_2.weight": 1 + some(HIDDEN),
            f"{at}attn.c_attn.weight": some(3 * HIDDEN, HIDDEN), f"{at}attn.c_attn.bias": some(3 * HIDDEN),
            f"{at}attn.c_proj.weight": some(HIDDEN, HIDDEN), f"{at}mlp.w1.weight": some(INNER, HIDDEN),
            f"{at}mlp.w2.weight": some(INNER, HIDDEN), f"{at}mlp.c_proj.weight": some(HIDDEN, INNER),
        }  # fmt: skip
    return made


@pytest.fixture
def checkpoint(tmp_path: Path, weights: dict[str, Tensor]) -> Path:
    folder = tmp_path / "Qwen-tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "modeling_qwen.py").write_text("raise SystemExit('remote code was run')")
    lines = [f"{base64.b64encode(bytes([byte])).decode()} {byte}" for byte in range(256)]
    (folder / "qwen.tiktoken").write_text("\n".join(lines))
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        save_file({name: weights[name] for name in part}, folder / f"model-0000{number}-of-00002.safetensors")
    return folder


def forward(weights: dict[str, Tensor], ids: list[int]) -> Tensor:
    """Qwen-1's forward pass, written from its published description."""

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * weight

    width = HIDDEN // HEADS
    inverse = 1 / 10000 ** (torch.arange(0, width, 2).float() / width)
    angle = torch.outer(torch.arange(len(ids)).float(), inverse).repeat(1, 2)

    def rotate(x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * angle.cos() + torch.cat((-second, first), -1) * angle.sin()

    x = weights["transformer.wte.weight"][ids]
    for layer in range(LAYERS):
        w = {name.removeprefix(f"transformer.h.{layer}."): tensor for name, tensor in weights.items()}
        mixed = norm(x, w["ln_1.weight"]) @ w["attn.c_attn.weight"].T + w["attn.c_attn.bias"]
        q, k, v = (part.view(len(ids), HEADS, width).transpose(0, 1) for part in mixed.chunk(3, -1))
        scores = rotate(q) @ rotate(k).transpose(1, 2) / width**0.5
        scores += torch.full((len(ids), len(ids)), -torch.inf).triu(1)
        attended = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(ids), HIDDEN)
        x = x + attended @ w["attn.c_proj.weight"].T
        h = norm(x, w["ln_2.weight"])
        up, gate = h @ w["mlp.w1.weight"].T, h @ w["mlp.w2.weight"].T
        x = x + (up * torch.nn.functional.silu(gate)) @ w["mlp.c_proj.weight"].T
    return norm(x, weights["transformer.ln_f.weight"]) @ weights["lm_head.weight"].T


def test_logits_are_those_of_the_original(checkpoint: Path, weights: dict[str, Tensor]) -> None:
    loaded = load(str(checkpoint), torch.float32)
    assert loaded.model.config.model_type == "qwen2"
    ids = loaded.template.prompt_ids([Message(role="user", content="朝阳区天气？")])[:60]
    with torch.no_grad():
        got = loaded.model(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(got, forward(weights, ids), rtol=0, atol=1e-5)


def test_it_speaks_chatml_and_is_saved_as_qwen2(checkpoint: Path, tmp_path: Path) -> None:
    loaded = load(str(checkpoint), torch.float32)
    text = loaded.template.tokenizer.decode(loaded.template.prompt_ids([Message(role="user", content="hi")]))
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert loaded.template.tokenizer.decode([loaded.template.end_id]) == "<|im_end|>"
    loaded.model.save_pretrained(tmp_path / "saved")
    loaded.template.tokenizer.save_pretrained(tmp_path / "saved")
    again = load(str(tmp_path / "saved"), torch.float32)
    assert again.template.hash == loaded.template.hash
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(again.model(ids).logits, loaded.model(ids).logits)


def test_a_broken_checkpoint_is_refused(checkpoint: Path, weights: dict[str, Tensor]) -> None:
    one, two = sorted(checkpoint.glob("*.safetensors"))
    two.unlink()
    with pytest.raises(ModelError, match="is missing"):
        load(str(checkpoint), torch.float32)
    one.write_bytes(one.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot read"):
        load(str(checkpoint), torch.float32)
    save_file({**weights, "transformer.h.0.attn.extra": torch.zeros(2)}, one)
    with pytest.raises(ModelError, match="has no weight"):
        load(str(checkpoint), torch.float32)


@pytest.fixture(scope="module")
def real_tokenizer() -> PreTrainedTokenizerFast:
    return qwen1.load_tokenizer(real_vocabulary(), 10**6)


def test_the_real_vocabulary_gives_the_tokens_of_tiktoken(real_tokenizer: PreTrainedTokenizerFast) -> None:
    lines = [line.split() for line in real_vocabulary().read_bytes().splitlines() if line]
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    special = {token: len(ranks) + at for at, token in enumerate(qwen1.SPECIAL_TOKENS)}
    reference = tiktoken.Encoding("qwen", pat_str=qwen1._PATTERN, mergeable_ranks=ranks, special_tokens=special)
    assert len(real_tokenizer) == len(ranks) + len(special) == 151851
    rng = random.Random(0)
    texts = [
        "朝阳区天气怎样？🌧️ 12°C，微风。",
        "It's   raining;\n\n\tthey'll    stay\r\n at 1234567 °F",
        "\U0001f469\u200d\U0001f52c e\u0301 ﬁ aaaaaaaa",
        'Action: amap_weather\nAction Input: {"location": "海淀区"}\nObservation:',
        Path(qwen1.__file__).read_text("utf-8"),
    ]
    ranges = [(32, 127), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF), (0xA0, 0x2FFF), (9, 14)]
    texts += ["".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(50)) for _ in range(400)]
    for text in texts:
        ids = real_tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert ids == reference.encode_ordinary(unicodedata.normalize("NFC", text)), text
    chat = "<|im_start|>user\n你好<|im_end|>\n<|extra_204|>"
    ids = real_tokenizer(chat, add_special_tokens=False)["input_ids"]
    assert ids == reference.encode(chat, allowed_special="all")
    assert real_tokenizer.decode(ids) == chat
