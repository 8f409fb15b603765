"""Export: an adapter as merged safetensors and GGUF, each with the same replies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from toolweave.errors import ModelError
from toolweave.models.base_models import load
from toolweave.serving import vllm
from toolweave.serving.parity import run_parity
from toolweave.weights.export import export, model_card
from toolweave.weights.gguf import GgufType, modelfile
from toolweave.weights.manifest import Manifest
from toolweave.weights.parity import Agreement, Difference


@pytest.fixture(scope="module")
def adapter(bpe_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "tiny" / "v0-20260101-000000" / "checkpoint-3"
    base = load(str(bpe_model_dir), torch.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tuned = get_peft_model(base.model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    assert isinstance(tuned, PeftModel)
    tuned.save_pretrained(str(folder))
    Manifest(str(bpe_model_dir), base.template.hash, ("agentfabric-v06",)).save(folder)
    (folder.parent / "sft_args.json").write_text('{"lora_rank": 4}')
    return folder


def test_every_form_replies_alike_and_nothing_is_overwritten(adapter: Path) -> None:
    done = export(adapter, gguf=[GgufType.Q8_0, GgufType.F32])
    assert done.folder == adapter.with_name("checkpoint-3-merged")
    assert json.loads((done.folder / "toolweave.json").read_text())["recipe"] == {"lora_rank": 4}
    card = (done.folder / "README.md").read_text()
    assert "agentfabric-v06" in card
    assert str(adapter.parent.parent) not in card
    exact = done.folder / "checkpoint-3-merged-f32.gguf"
    assert f"FROM ./{exact.name}\n" in (done.folder / "Modelfile").read_text()
    agreements = list(run_parity(done.folder, adapter=adapter, gguf=[exact], count=3))
    assert [agreement.form for agreement in agreements] == ["adapter", "embedded engine", exact.name]
    for agreement in agreements:
        agreement.check()
    with pytest.raises(ModelError, match="exists already"):
        export(adapter)
    with pytest.raises(ModelError, match="exists already"):
        export(done.folder, gguf=[GgufType.F32])
    assert vllm.model_names(done.folder, None) == ["tiny", str(done.folder)]


def test_what_is_no_adapter_is_not_skipped_silently(tiny_model_dir: Path) -> None:
    with pytest.raises(ModelError, match="not an adapter folder"):
        export(tiny_model_dir)


def test_a_difference_stops_the_release() -> None:
    with pytest.raises(ModelError, match=r"1 of 5 replies differ; request 2, token 7: 'b' instead of 'a'"):
        Agreement("vLLM", 5, (Difference(2, 7, "a", "b"),)).check()


def test_cards_and_modelfiles(tmp_path: Path) -> None:
    assert "unknown" in model_card(tmp_path)
    assert 'PARAMETER stop "Observation:"' in modelfile("a.gguf", ("Observation:",), 4096)
