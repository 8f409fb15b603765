"""Prefix trees compute every distinct token once, with the loss and gradients of one-by-one training."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from toolweave.errors import ModelError
from toolweave.models.packing import multiplies
from toolweave.training import attention, prefix_tree
from toolweave.training.lean import make_lean
from toolweave.training.lora import LoraLinear, add_lora, pack_frozen
from toolweave.training.loss import tree_loss
from toolweave.training.prefix_tree import Encoded, PrefixTree
from toolweave.training.sft import _checkpoint_activations

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 12,
}
# Windows shorter than the samples, so that a token does not see all of its path.
GEMMA_LAYERS = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
ARCHITECTURES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, GEMMA_LAYERS),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 4}),
}


@st.composite
def encoded(draw: st.DrawFn) -> Encoded:
    """A sample over three tokens, so that prefixes are shared often."""
    ids = draw(st.lists(st.integers(0, 2), min_size=2, max_size=12))
    return Encoded(tuple(ids), draw(st.integers(1, len(ids) - 1)))


SAMPLE_SETS = st.lists(encoded(), min_size=1, max_size=7)
# No subtrees together, some, all in one block.
WINDOWS = st.sampled_from([0, 8, 128])


@cache
def model_of(name: str, lean: bool = False) -> PeftModel:
    """A model with adapters on all its linears, as they are in the middle of training: none is zero."""
    config, architecture, extra = ARCHITECTURES[name]
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = architecture(config(**SHAPE, **extra)).float()
        if lean:
            make_lean(base)
        return add_lora(base, lora)


def gradients(model: PeftModel) -> list[Tensor]:
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def one_by_one(model: PeftModel, samples: list[Encoded]) -> tuple[Tensor, list[Tensor]]:
    model.get_base_model().set_attn_implementation("eager")
    model.zero_grad()
    loss = torch.zeros(())
    for sample in samples:
        logits = model(torch.tensor([sample.ids]), use_cache=False).logits[0, sample.prompt - 1 : -1]
        loss = loss + nn.functional.cross_entropy(logits, torch.tensor(sample.ids[sample.prompt :]), reduction="sum")
    loss.backward()
    return loss.detach(), gradients(model)


def packed(model: PeftModel, samples: list[Encoded]) -> tuple[Tensor, list[Tensor]]:
    model.get_base_model().set_attn_implementation(attention.NAME)
    model.zero_grad()
    loss = tree_loss(model, PrefixTree.build(samples))
    loss.backward()
    return loss.detach(), gradients(model)


@cache
def bf16_model(packs: bool) -> PeftModel:
    """A copy of the Qwen2 model, whose layers have biases, in bf16."""
    model = deepcopy(model_of("qwen2", lean=True)).bfloat16()
    if packs:
        pack_frozen(model)
    return model


@settings(max_examples=25)
@given(samples=SAMPLE_SETS)
def test_packed_weights_compute_the_same(samples: list[Encoded]) -> None:
    if not multiplies(bf16_model(False).get_base_model().get_decoder().layers[0].mlp.up_proj.get_base_layer().weight):
        pytest.skip("oneDNN has no products of bf16 for this processor")
    assert all(layer._packed for layer in bf16_model(True).modules() if isinstance(layer, LoraLinear))
    (loss, plain), (packed_loss, with_packed) = (packed(bf16_model(packs), samples) for packs in (False, True))
    torch.testing.assert_close(packed_loss, loss, rtol=0.01, atol=0)
    for one, other in zip(with_packed, plain, strict=True):
        assert (one - other).norm() <= 0.01 * other.norm()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=25)
@given(samples=SAMPLE_SETS, window=WINDOWS, kept=st.sampled_from([0, 2**30]))
def test_loss_and_gradients_equal_one_by_one(architecture: str, samples: list[Encoded], window: int, kept: int) -> None:
    model = model_of(architecture, lean=True)
    expected, expected_gradients = one_by_one(model_of(architecture), samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_tree, "_WINDOW", window)
        patch.setattr(attention, "_KEPT_BYTES", kept)
        loss, tree_gradients = packed(model, samples)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    assert len(tree_gradients) == len(expected_gradients) == sum(w.requires_grad for w in model.parameters())
    for got, want in zip(tree_gradients, expected_gradients, strict=True):
        assert (got - want).norm() <= 1e-5 * max(1.0, float(want.norm()))


@pytest.mark.parametrize("kept", [False, True])
def test_in_float32_no_input_of_a_lean_layer_waits_for_the_backward_pass(kept: bool) -> None:
    model = bf16_model(False) if kept else model_of("qwen2", lean=True)
    model.get_base_model().set_attn_implementation(attention.NAME)
    taken, saved = list[Tensor](), set[int]()

    def save(tensor: Tensor) -> Tensor:
        saved.add(tensor.data_ptr())
        return tensor

    def take(module: nn.Module, inputs: tuple[Tensor]) -> None:
        taken.append(inputs[0])  # kept from going, so that its place is not another's

    lean = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "down_proj")
    hooks = [module.register_forward_pre_hook(take) for name, module in model.named_modules() if name.endswith(lean)]
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        tree_loss(model, PrefixTree.build([Encoded((0, 1, 2, 1), 1)])).backward()
    for hook in hooks:
        hook.remove()
    assert len(taken) == 2 * len(lean)
    assert {tensor.data_ptr() in saved for tensor in taken} == {kept}


@settings(max_examples=10)
@given(samples=SAMPLE_SETS)
def test_gradient_checkpointing_changes_nothing(samples: list[Encoded]) -> None:
    model = deepcopy(model_of("qwen2", lean=True)).train()
    loss, plain = packed(model, samples)
    _checkpoint_activations(model)
    again, checkpointed = packed(model.train(), samples)
    assert torch.equal(again, loss)
    assert all(map(torch.equal, checkpointed, plain))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_another_model_computes_otherwise_is_left_as_it_is(architecture: str) -> None:
    lean = [name for name, module in model_of(architecture, lean=True).named_modules() if "forward" in vars(module)]
    # Gemma's norms add 1 to their weight, and its MLPs have another activation.
    expected = 0 if architecture == "gemma3" else 2 * 3 + 1
    if architecture == "qwen3":
        expected += 2 * 2
    assert len(lean) == expected


def path_to(tree: PrefixTree, at: int) -> list[int]:
    """Return the flat indices from the root to token `at`: what it may attend to."""
    return [before for before in range(at + 1) if at < tree.ends[before]]


@given(SAMPLE_SETS)
def test_the_path_to_a_token_is_a_prefix_of_its_samples(samples: list[Encoded]) -> None:
    tree = PrefixTree.build(samples)
    tokens = tree.tokens.tolist()
    prefixes = {sample.ids[:length] for sample in samples for length in range(1, len(sample.ids) + 1)}
    paths = [path_to(tree, at) for at in range(len(tokens))]
    # Every distinct prefix ends at exactly one token of the tree.
    assert len(tokens) == len(prefixes)
    assert {tuple(tokens[at] for at in path) for path in paths} == prefixes
    assert tree.positions.tolist() == [len(path) - 1 for path in paths]
    assert tree.nominal == sum(len(sample.ids) for sample in samples)


@given(SAMPLE_SETS, WINDOWS)
def test_blocks_cover_what_a_token_sees_once(samples: list[Encoded], window: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_tree, "_WINDOW", window)
        tree = PrefixTree.build(samples)
    covered = torch.zeros(len(tree.tokens), len(tree.tokens), dtype=torch.int64)
    for block in tree.blocks:
        own = block.stop - block.start
        covered[block.start : block.stop, block.start : block.stop] += ~block.hidden
        covered[block.start + own : block.end, block.start : block.stop] += 1
    seen = torch.zeros_like(covered)
    for at in range(len(tree.tokens)):
        seen[at, path_to(tree, at)] = 1
    assert torch.equal(covered, seen)


@given(SAMPLE_SETS)
def test_labels_are_the_completions_of_the_samples(samples: list[Encoded]) -> None:
    tree = PrefixTree.build(samples)
    tokens = tree.tokens.tolist()
    wanted: dict[tuple[int, ...], int] = {}
    for sample in samples:
        for at in range(sample.prompt, len(sample.ids)):
            wanted[sample.ids[: at + 1]] = wanted.get(sample.ids[: at + 1], 0) + 1
    labels = zip(tree.label_at.tolist(), tree.label_target.tolist(), tree.label_weight.tolist(), strict=True)
    assert {(*(tokens[i] for i in path_to(tree, at)), target): weight for at, target, weight in labels} == wanted


@given(SAMPLE_SETS, st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(samples: list[Encoded], random: Random) -> None:
    shuffled = list(samples)
    random.shuffle(shuffled)
    first, second = PrefixTree.build(samples), PrefixTree.build(shuffled)
    assert first.blocks == second.blocks
    for name in ("tokens", "positions", "ends", "label_at", "label_target", "label_weight"):
        assert torch.equal(getattr(first, name), getattr(second, name))


def test_a_shared_prompt_is_computed_once() -> None:
    prompt = tuple(range(100))
    samples = [Encoded((*prompt, 100 + end, 7), 100) for end in range(5)]
    tree = PrefixTree.build(samples)
    assert (len(tree.tokens), tree.nominal) == (110, 510)


def test_long_nodes_are_cut_into_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_tree, "_RUN", 3)
    monkeypatch.setattr(prefix_tree, "_WINDOW", 3)
    prompt = (0, 1, 2, 0, 1, 2, 2)
    samples = [Encoded((*prompt, end, end), 5) for end in range(3)]
    tree = PrefixTree.build(samples)
    assert [(block.start, block.stop, block.end) for block in tree.blocks[:3]] == [(0, 3, 13), (3, 6, 13), (6, 7, 13)]
    model = model_of("llama")
    expected, expected_gradients = one_by_one(model, samples)
    loss, tree_gradients = packed(model, samples)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tree_gradients, expected_gradients, rtol=1e-4, atol=1e-5)


@given(SAMPLE_SETS, st.sampled_from([None, 3]), st.sampled_from([0.1, 10.0, 100.0]), st.integers(0, 99))
def test_scores_may_be_far_above_and_below_that_of_the_root(
    samples: list[Encoded], window: int | None, size: float, seed: int
) -> None:
    tree = PrefixTree.build(samples)
    at = torch.arange(len(tree.tokens))
    seen = (at <= at[:, None]) & (at[:, None] < tree.ends)
    if window is not None:
        seen &= tree.positions[:, None] - tree.positions < window
    chance = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, 2, len(at), 8, generator=chance).requires_grad_() for _ in range(3))
    toward = torch.randn(len(at), 2, 8, generator=chance)
    scores = torch.where(seen, q[0] @ k[0].transpose(1, 2) * size, -torch.inf)
    expected = (scores.softmax(-1) @ v[0]).transpose(0, 1)
    expected_gradients = torch.autograd.grad((expected * toward).sum(), (q, k, v))
    out, _ = attention.tree_attention(nn.Identity(), q, k, v, None, tree=tree, scaling=size, sliding_window=window)
    gradients = torch.autograd.grad((out[0] * toward).sum(), (q, k, v))
    torch.testing.assert_close(out[0], expected, rtol=1e-3, atol=1e-4)
    for got, want in zip(gradients, expected_gradients, strict=True):
        assert (got - want).norm() <= 1e-5 * size * max(1.0, float(want.norm()))


def test_capped_scores_are_refused() -> None:
    tree = PrefixTree.build([Encoded(tuple(range(10)), 2)])
    query = torch.zeros(1, 2, 10, 16)
    with pytest.raises(ModelError, match="capped"):
        attention.tree_attention(nn.Identity(), query, query, query, None, tree=tree, softcap=50.0)


@pytest.mark.parametrize("bias", [False, True])
def test_lora_computes_what_peft_computes(bias: bool) -> None:
    torch.manual_seed(0)
    layers = nn.ModuleDict({"proj": nn.Linear(12, 20, bias=bias)})
    config = LoraConfig(r=3, lora_alpha=7, target_modules=["proj"], init_lora_weights=False)
    reference = get_peft_model(deepcopy(layers), config)
    config._register_custom_module({nn.Linear: LoraLinear})
    ours = get_peft_model(layers, config)
    ours.load_state_dict(reference.state_dict())
    results = []
    for model in (reference, ours):
        x = torch.linspace(-1, 1, 60).reshape(1, 5, 12).requires_grad_()
        y = model.base_model.model["proj"](x)
        (y * torch.arange(20)).sum().backward()
        results.append([y, x.grad, *gradients(model)])
    torch.testing.assert_close(results[1], results[0])


def test_dropout_drops_features_of_the_adapter_only() -> None:
    layer = nn.ModuleDict({"proj": nn.Linear(64, 4, bias=False)})
    config = LoraConfig(r=2, lora_dropout=0.5, target_modules=["proj"], init_lora_weights=False)
    config._register_custom_module({nn.Linear: LoraLinear})
    proj = get_peft_model(layer, config).base_model.model["proj"]
    assert isinstance(proj, LoraLinear)
    same = torch.ones(1, 1, 64).expand(1, 3, 64)
    dropped, again = proj(same), proj(same)
    assert not torch.equal(dropped, again)
    torch.testing.assert_close(dropped[0, 0], dropped[0, 2])
    proj.eval()
    torch.testing.assert_close(proj(same), proj(same))
