"""Several adapters of one base as one, whose change to the base is exactly a weighted sum of theirs.

The mean of models that were fine-tuned from one base, each on data of its own, can be better than any of them: "model
soups" (Wortsman et al., 2022, https://arxiv.org/abs/2203.05482).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from toolweave.errors import ModelError
from toolweave.types import Json
from toolweave.weights.manifest import Manifest, replace_folder

_TENSORS, _CONFIG, _RECIPE = "adapter_model.safetensors", "adapter_config.json", "sft_args.json"
_TOKENIZER = ("tokenizer*", "chat_template*", "special_tokens_map.json")
# What makes an adapter more than the plain product of two matrices, times alpha by rank.
_VARIANTS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")


def average(ckpt_dirs: Sequence[Path], output_dir: Path) -> Path:
    """Write the mean of adapters into the new folder `output_dir`; its rank is all of theirs together.

    Raises ModelError when there are less than two, one cannot be read, they belong to different bases or templates, or
    have other layers or scales, and when `output_dir` exists.
    """
    if len(ckpt_dirs) < 2:
        raise ModelError("a mean takes at least two adapters", "give --ckpt_dir once for each")
    if output_dir.exists():
        raise ModelError(f"{output_dir} exists already", "remove it, or choose another --output_dir")
    tensors, config = stack(ckpt_dirs, [1 / len(ckpt_dirs)] * len(ckpt_dirs))
    manifests = [Manifest.of_adapter(folder) for folder in ckpt_dirs]
    first = manifests[0]
    for folder, manifest in zip(ckpt_dirs, manifests, strict=True):
        if manifest.base != first.base:
            raise ModelError(f"{folder} belongs to {manifest.base}, {ckpt_dirs[0]} to {first.base}")
        manifest.check_template(first.template_hash, ckpt_dirs[0])
    with replace_folder(output_dir) as folder:
        write_adapter(folder, tensors, config)
        for path in (path for pattern in _TOKENIZER for path in ckpt_dirs[0].glob(pattern)):
            shutil.copy(path, folder)
        for recipe in (place / _RECIPE for place in (ckpt_dirs[0], ckpt_dirs[0].parent)):
            if recipe.is_file():
                shutil.copy(recipe, folder)
        dialects = sorted({dialect for manifest in manifests for dialect in manifest.dialects})
        Manifest(first.base, first.template_hash, tuple(dialects)).save(folder)
    return output_dir


def stack(adapters: Sequence[Path], weights: Sequence[float]) -> tuple[dict[str, Tensor], Json]:
    """Return tensors, in the first one's dtype, and config of the adapter that is the weighted sum of others.

    Raises ModelError when one cannot be read, or has other layers or another scale than the first.
    """
    tensors, configs = zip(*map(_read, adapters), strict=True)
    scales = [config["lora_alpha"] / config["r"] for config in configs]
    for folder, own, scale in zip(adapters, tensors, scales, strict=True):
        if own.keys() != tensors[0].keys() or scale != scales[0]:
            raise ModelError(
                f"{folder} has other layers or another scale (alpha by rank) than {adapters[0]}",
                "train them with the same --lora_target_modules, --lora_rank and --lora_alpha",
            )
    stacked: dict[str, Tensor] = {}
    for name, like in tensors[0].items():
        # A is (rank, in) and B (out, rank): the product of all together is the sum of the products.
        if ".lora_A." in name:
            stacked[name] = torch.cat([own[name].to(like) for own in tensors], dim=0)
        else:
            parts = [(weight * own[name]).to(like) for own, weight in zip(tensors, weights, strict=True)]
            stacked[name] = torch.cat(parts, dim=1)
    sums = {key: sum(config[key] for config in configs) for key in ("r", "lora_alpha")}
    return stacked, {**configs[0], **sums}


def write_adapter(folder: Path, tensors: dict[str, Tensor], config: Json) -> None:
    """Write the two files of an adapter, as PEFT reads them."""
    save_file(tensors, folder / _TENSORS, metadata={"format": "pt"})
    (folder / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def _read(folder: Path) -> tuple[dict[str, Tensor], Json]:
    try:
        config: Json = json.loads((folder / _CONFIG).read_text("utf-8"))
        tensors = load_file(folder / _TENSORS)
        variants = [name for name in _VARIANTS if config.get(name)]
        plain = all(".lora_A." in name or ".lora_B." in name for name in tensors)
        known = float(config["lora_alpha"]) > 0 and int(config["r"]) > 0
    except FileNotFoundError as error:
        raise ModelError(f"{folder} is not an adapter folder (no {Path(error.filename).name})") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ModelError(f"{folder} is not an adapter that can be read: {error}") from error
    if variants or not plain or not known:
        raise ModelError(f"{folder} is no plain LoRA adapter ({', '.join(variants) or 'other tensors'})")
    return tensors, config
