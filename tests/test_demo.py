"""The whole loop as a user runs it, on a tiny model: every step, a second run, an interrupted one, bad input."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean

import pytest
from safetensors.torch import load_file

from toolweave import demo
from toolweave.data.synthesize import training_groups
from toolweave.errors import ModelError, ToolweaveError
from toolweave.training.progress import best_checkpoint
from toolweave.types import Lang, Sample
from toolweave.weights.manifest import Manifest, replace_folder
from toolweave.weights.merge import merge


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "LEAST_VISITS", 16)
    monkeypatch.setattr(demo, "MOST_VISITS", 16)


def test_demo_from_start_to_report(
    bpe_model_dir: Path, tmp_path: Path, small: None, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "demo"
    start = str(shutil.copytree(bpe_model_dir, tmp_path / "starter"))
    demo.run_demo(str(bpe_model_dir), output, visits=14, start=start)
    report = json.loads((output / "report.json").read_text("utf-8"))
    for model in ("base", "starter", "tuned"):
        for line in ("seen_tools", "unseen_tools", "no_call"):
            assert set(report[model][line]) == {"n", "ok", "called", "right", "faithful", "stopped"}
            assert 0 <= report[model][line]["ok"] <= report[model][line]["n"]
    assert report["seconds"] > 0
    assert report["peak_rss_mb"] > 0
    merged = Path(report["merged_model"])
    assert load_file(merged / "model.safetensors")
    assert "data:image/png" in (output / "report.html").read_text("utf-8")
    sft = output / "sft"
    assert (sft / "images" / "loss.png").is_file()
    assert list((sft / "runs").iterdir())
    rows = [json.loads(line) for line in (sft / "logging.jsonl").read_text("utf-8").splitlines()]
    assert rows[-1]["eval_loss"] > 0
    manifest = Manifest.load(merged)
    assert manifest
    assert manifest.dialects
    assert manifest.base == start
    capsys.readouterr()

    adapter = best_checkpoint(sft)
    # A second run reuses every step; with the last two gone, it makes only those.
    written = (adapter / "adapter_model.safetensors").stat().st_mtime_ns
    (output / "steps" / "merge.json").unlink()
    demo.run_demo(str(bpe_model_dir), output, visits=14, start=start)
    said = capsys.readouterr().out
    assert said.count("reused") == 6
    assert (adapter / "adapter_model.safetensors").stat().st_mtime_ns == written

    with pytest.raises(ModelError, match="exists already"):
        merge(adapter, merged)
    manifest_path = adapter / "toolweave.json"
    manifest_path.write_text(manifest_path.read_text().replace(manifest.template_hash, "0" * 16))
    with pytest.raises(ModelError, match="changed since training"):
        merge(adapter, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_fresh_deletes_only_what_the_demo_wrote(tiny_model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(ToolweaveError, match="not written by the demo"):
        demo.run_demo(str(tiny_model_dir), tmp_path, fresh=True)
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize("module", ["demo", "studio.app", "data.check", "agents", "traces.recorder"])
def test_what_only_talks_to_models_loads_no_torch(module: str) -> None:
    """It takes seconds and 300 MB; what computes is a process of its own."""
    code = f"import sys, toolweave.{module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_speed_is_that_of_groups_learned_before() -> None:
    assert demo._steady_seconds([{"seconds": seconds} for seconds in (9.0, 12.0, 14.5, 17.0)]) == pytest.approx(5)


@pytest.mark.parametrize("lang", Lang)
def test_speed_is_measured_on_groups_like_those_of_a_demo(lang: Lang) -> None:
    def sizes(groups: Iterable[list[Sample]]) -> list[int]:
        return [demo._size(group) for group in groups if group[0].meta["lang"] == lang]

    learned = fmean(sizes(training_groups(6_000)))
    assert sizes(demo._typical_groups(2)) == pytest.approx([learned, learned], rel=0.03)


def test_unknown_model_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "toolweave", "demo", "--model", "./no/such", "--output", str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "no model at" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_the_old_folder_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with replace_folder(target) as draft:
        (draft / "weights").write_text("old")

    def fill_the_disk() -> None:
        with replace_folder(target) as draft:
            (draft / "weights").write_text("ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(ModelError, match="no space left"):
        fill_the_disk()
    assert (target / "weights").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
