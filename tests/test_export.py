"""Export: an adapter as merged safetensors and GGUF, each with the same replies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from toolweave.errors import ModelError
from toolweave.models.base_models import load
from toolweave.serving import vllm
from toolweave.serving.parity import run_parity
from toolweave.weights.average import average
from toolweave.weights.export import export, model_card
from toolweave.weights.gguf import GgufType, modelfile
from toolweave.weights.manifest import Manifest
from toolweave.weights.parity import Agreement, Difference


def random_adapter(model: Path, folder: Path, seed: int = 0, rank: int = 4, **options: Any) -> Path:
    """Save an adapter of random weights for the model in a folder."""
    base = load(str(model), torch.float32)
    config = LoraConfig(
        **{"r": rank, "lora_alpha": 2 * rank, "target_modules": "all-linear", "init_lora_weights": False, **options}
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tuned = get_peft_model(base.model, config)
    assert isinstance(tuned, PeftModel)
    tuned.save_pretrained(str(folder))
    Manifest(str(model), base.template.hash, (f"agentfabric-v0{6 + seed % 2}",)).save(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(bpe_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "tiny" / "v0-20260101-000000"
    folder = random_adapter(bpe_model_dir, run / "checkpoint-3")
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


def merged_weights(model: Path, adapter: Path) -> dict[str, torch.Tensor]:
    adapted = PeftModel.from_pretrained(load(str(model), torch.float32).model, str(adapter))
    return dict(cast(Any, adapted).merge_and_unload().state_dict())


@pytest.mark.parametrize("ranks", [(4, 4), (4, 2, 8)])
def test_the_mean_of_adapters_changes_the_base_by_the_mean(
    bpe_model_dir: Path, tmp_path: Path, ranks: tuple[int, ...]
) -> None:
    folders = [random_adapter(bpe_model_dir, tmp_path / str(n), n, rank) for n, rank in enumerate(ranks)]
    mean = average(folders, tmp_path / "mean")
    each = [merged_weights(bpe_model_dir, folder) for folder in folders]
    for name, weight in merged_weights(bpe_model_dir, mean).items():
        torch.testing.assert_close(weight, torch.stack([own[name] for own in each]).mean(0), rtol=1e-4, atol=1e-5)
    manifest = Manifest.load(export(mean).folder)
    assert manifest
    assert manifest.dialects == ("agentfabric-v06", "agentfabric-v07")
    with pytest.raises(ModelError, match="exists already"):
        average(folders, mean)


def test_adapters_that_have_no_mean(adapter: Path, bpe_model_dir: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    other = random_adapter(tiny_model_dir, tmp_path / "other")
    broken = random_adapter(bpe_model_dir, tmp_path / "broken")
    (broken / "adapter_model.safetensors").write_bytes(b"no tensors")
    strangers = {
        "at least two": [],
        "another scale": [random_adapter(bpe_model_dir, tmp_path / "scaled", lora_alpha=9)],
        "other layers": [random_adapter(bpe_model_dir, tmp_path / "few", target_modules=["q_proj"])],
        "belongs to": [other],
        "no plain LoRA adapter": [random_adapter(bpe_model_dir, tmp_path / "dora", use_dora=True)],
        "not an adapter folder": [bpe_model_dir],
        "not an adapter that can be read": [broken],
    }
    for says, folders in strangers.items():
        with pytest.raises(ModelError, match=says):
            average([adapter, *folders], tmp_path / "mean")
        assert not (tmp_path / "mean").exists()


def test_what_is_no_adapter_is_not_skipped_silently(tiny_model_dir: Path) -> None:
    with pytest.raises(ModelError, match="not an adapter folder"):
        export(tiny_model_dir)


def test_a_difference_stops_the_release() -> None:
    with pytest.raises(ModelError, match=r"1 of 5 replies differ; request 2, token 7: 'b' instead of 'a'"):
        Agreement("vLLM", 5, (Difference(2, 7, "a", "b"),)).check()


def test_cards_and_modelfiles(tmp_path: Path) -> None:
    assert "unknown" in model_card(tmp_path)
    assert 'PARAMETER stop "Observation:"' in modelfile("a.gguf", ("Observation:",), 4096)
