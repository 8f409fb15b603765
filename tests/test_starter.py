"""The embedded model with the starter: another model under the same template, for whatever takes a base model."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from toolweave.evals.targets import model_hash
from toolweave.models.base_models import load
from toolweave.models.locate import EMBEDDED, EMBEDDED_TOOLS, STARTER


def test_embedded_tools_is_the_embedded_model_plus_the_starter() -> None:
    plain, tools = load(EMBEDDED, torch.float32), load(EMBEDDED_TOOLS, torch.float32)
    adapter = load_file(STARTER / "adapter_model.safetensors")
    weights, changed = plain.model.state_dict(), tools.model.state_dict()
    assert weights.keys() == changed.keys()
    adapted = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for name in adapter if "lora_A" in name
    }
    assert len(adapted) == 7 * plain.model.config.num_hidden_layers
    for name, weight in weights.items():
        layer = name.removesuffix(".weight")
        expected = weight
        if layer in adapted:
            down, up = (adapter[f"base_model.model.{layer}.lora_{part}.weight"].float() for part in "AB")
            expected = weight + 4 * up @ down  # alpha is 4 times the rank
        torch.testing.assert_close(changed[name], expected, rtol=1e-5, atol=1e-5)
    assert plain.template.hash == tools.template.hash


def test_a_cache_tells_the_two_apart() -> None:
    assert model_hash(EMBEDDED) != model_hash(EMBEDDED_TOOLS)
