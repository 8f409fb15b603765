"""GGUF bases: unpacked once, silently, and found again by what is in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from toolweave.models import gguf
from toolweave.models.base_models import LoadedModel, load
from toolweave.weights.gguf import GgufType, write_gguf


def test_a_gguf_file_is_unpacked_once(
    bpe_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = load(str(bpe_model_dir), torch.float32)
    path = tmp_path / "tiny.gguf"
    write_gguf(plain, path, GgufType.F32, "tiny")
    capfd.readouterr()

    first = load(str(path), torch.float32)
    (copy,) = (tmp_path / "cache" / "toolweave" / "gguf").iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(gguf, "_unpack", None)
        moved = path.rename(tmp_path / "moved.gguf")
        second = load(str(moved), torch.float32)
    assert capfd.readouterr() == ("", "")
    assert_alike(plain, first)
    assert_alike(first, second)
    assert first.template.hash == second.template.hash

    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert_alike(first, load(str(moved), torch.float32))
    assert weights.read_bytes() == whole

    write_gguf(plain, moved, GgufType.F32, "another")
    load(str(moved), torch.float32)
    assert len(list(copy.parent.iterdir())) == 2


def assert_alike(one: LoadedModel, other: LoadedModel) -> None:
    text = "Weave 工具 into 模型 😀"
    ids = one.template.completion_ids(text)
    assert other.template.completion_ids(text) == ids
    with torch.no_grad():
        logits = [loaded.model(torch.tensor([ids])).logits for loaded in (one, other)]
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-5)
