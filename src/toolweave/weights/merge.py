"""Merge a LoRA adapter into its base model, and prove that both give the same replies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from toolweave.data.synthesize import held_out_episodes
from toolweave.dialects import get_dialect
from toolweave.errors import ModelError
from toolweave.models.base_models import load
from toolweave.models.template import ChatTemplate
from toolweave.weights.manifest import Manifest, replace_folder

_PROBES = 3
_PROBE_TOKENS = 24


def merge(ckpt_dir: Path, output_dir: Path | None = None) -> Path:
    """Merge the adapter of `ckpt_dir` and save safetensors to `output_dir` (default: `<ckpt_dir>-merged`).

    Raises ModelError when `ckpt_dir` is no adapter of toolweave, the target exists, the chat template
    is another than in training, or merged and unmerged model disagree on a greedy reply.
    """
    target = output_dir or ckpt_dir.with_name(f"{ckpt_dir.name}-merged")
    if not (ckpt_dir / "adapter_config.json").is_file():
        raise ModelError(f"{ckpt_dir} is not an adapter folder (no adapter_config.json)", "give the folder sft wrote")
    if target.exists():
        raise ModelError(f"{target} exists already", "remove it, or choose another --output_dir")
    manifest = Manifest.of_adapter(ckpt_dir)
    base = load(manifest.base, torch.float32)
    manifest.check_template(base.template.hash, ckpt_dir)
    adapted = PeftModel.from_pretrained(base.model, str(ckpt_dir)).eval()
    probes = _probes(base.template)
    before = [_greedy(adapted, probe, base.template.end_id) for probe in probes]
    merged = cast(PreTrainedModel, cast(Callable[[], object], adapted.merge_and_unload)())
    for number, (probe, expected) in enumerate(zip(probes, before, strict=True)):
        got = _greedy(merged, probe, base.template.end_id)
        if got != expected:
            text = base.template.tokenizer.decode
            raise ModelError(
                f"merged and unmerged model differ on probe {number}: {text(got)!r} instead of {text(expected)!r}"
            )
    with replace_folder(target) as folder:
        merged.save_pretrained(str(folder))
        base.template.tokenizer.save_pretrained(str(folder))
        manifest.save(folder)
    return target


def _probes(template: ChatTemplate) -> list[list[int]]:
    samples = [
        get_dialect(episode.meta["dialect"]).render(episode)[-1]
        for episode in held_out_episodes()[:: 300 // _PROBES][:_PROBES]
    ]
    return [template.request_ids(sample) for sample in samples]


@torch.no_grad()
def _greedy(model: PreTrainedModel | PeftModel, prompt: Sequence[int], end_id: int) -> list[int]:
    ids = torch.tensor([list(prompt)])
    generate = cast(Callable[..., torch.Tensor], model.generate)
    generated = generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=_PROBE_TOKENS,
        do_sample=False,
        eos_token_id=end_id,
        pad_token_id=end_id,
    )
    return cast(list[int], generated[0, ids.shape[1] :].tolist())
