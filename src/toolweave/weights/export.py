"""A trained adapter as what others can run: merged safetensors, GGUF, a Modelfile, a model card, a hub repository."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from toolweave.dialects import get_dialect
from toolweave.errors import ModelError
from toolweave.models.base_models import load
from toolweave.types import Json
from toolweave.weights.gguf import GgufType, modelfile, write_gguf
from toolweave.weights.manifest import Manifest
from toolweave.weights.merge import merge

_MANIFEST = "toolweave.json"
_CONTEXT = 4096


class Hub(StrEnum):
    """Where models are shared."""

    HUGGING_FACE = "hf"
    MODELSCOPE = "modelscope"


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    folder: Path
    files: tuple[Path, ...]


def export(ckpt_dir: Path, output_dir: Path | None = None, gguf: Sequence[GgufType] = ()) -> Exported:
    """Merge an adapter folder (or take a merged one) and write a model card, and GGUF files with a Modelfile.

    Nothing that exists is overwritten: raises ModelError when the merged folder or a GGUF file is there already.
    """
    if (ckpt_dir / "adapter_config.json").is_file():
        folder = merge(ckpt_dir, output_dir)
        _complete_manifest(folder, ckpt_dir)
    elif not gguf:
        raise ModelError(f"{ckpt_dir} is not an adapter folder (no adapter_config.json)", "give the folder sft wrote")
    else:
        folder = ckpt_dir
    written: list[Path] = []
    if not (folder / "README.md").exists():
        written.append(_write(folder / "README.md", model_card(folder)))
    return Exported(folder, (*written, *write_ggufs(folder, gguf)))


def write_ggufs(folder: Path, kinds: Sequence[GgufType]) -> list[Path]:
    """Write a merged model as GGUF files into its folder, and a Modelfile for the last of them."""
    targets = {kind: folder / f"{folder.resolve().name}-{kind}.gguf" for kind in dict.fromkeys(kinds)}
    for target in targets.values():
        if target.exists():
            raise ModelError(f"{target} exists already", "remove it first")
    if not targets:
        return []
    loaded = load(str(folder), torch.float32)
    for kind, target in targets.items():
        draft = target.with_suffix(".draft")
        try:
            write_gguf(loaded, draft, kind, folder.resolve().name)
            draft.rename(target)
        finally:
            draft.unlink(missing_ok=True)
    manifest = Manifest.load(folder)
    stop = get_dialect(manifest.dialects[0]).stop if manifest is not None and manifest.dialects else ()
    last = list(targets.values())[-1]
    length = min(_CONTEXT, loaded.model.config.get_text_config().max_position_embeddings)
    return [*targets.values(), _write(folder / "Modelfile", modelfile(last.name, stop, length))]


def model_card(folder: Path) -> str:
    """Return the README of a merged folder: base, dialects, recipe and scores, as its manifest tells them."""
    about = _read(folder / _MANIFEST) or {}
    dialects = about.get("dialects") or []
    head = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["tool-calling", "toolweave"]}
    front = "".join(f"{key}: {json.dumps(value)}\n" for key, value in head.items())
    sections = "".join(
        f"\n## {name.capitalize()}\n\n```json\n{json.dumps(about[name], indent=2, ensure_ascii=False)}\n```\n"
        for name in ("scores", "data", "recipe")
        if about.get(name)
    )
    return (
        f"---\n{front}---\n\n# {folder.resolve().name}\n\nA LoRA fine-tune of `{_public(about.get('base'))}` for tool "
        f"calling, merged.\n\n- Prompt formats (dialects): {', '.join(dialects) or 'as the chat template has it'}\n"
        f"- Chat template and vocabulary: `{about.get('template_hash', 'unknown')}`\n\n## Use\n\n```bash\n"
        f"toolweave deploy --ckpt_dir {folder.resolve().name}\n```\n{sections}"
    )


def push(folder: Path, repository: str, hub: Hub, *, private: bool = True) -> str:
    """Upload a merged folder to a hub through its SDK and return its address.

    The token comes from where the SDK keeps it. Raises ModelError when the SDK is missing or the hub refuses.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is not a merged model", "run toolweave export first")
    try:
        if hub is Hub.HUGGING_FACE:
            from huggingface_hub import HfApi

            api = HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=str(folder))
            return f"https://huggingface.co/{repository}"
        return _push_modelscope(folder, repository, private=private)
    except ImportError as error:
        raise ModelError(f"the SDK of this hub is not installed: {error}", "pip install modelscope") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{hub} refused {repository}: {error}", "log in with the hub's own command line") from error


def _push_modelscope(folder: Path, repository: str, *, private: bool) -> str:
    import importlib

    api: Any = importlib.import_module("modelscope.hub.api").HubApi()
    api.create_repo(repo_id=repository, repo_type="model", visibility="private" if private else "public", exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=str(folder), repo_type="model")
    return f"https://modelscope.cn/models/{repository}"


def _complete_manifest(folder: Path, ckpt_dir: Path) -> None:
    """Add to the manifest how the adapter came about, as far as the training run left it beside the checkpoint."""
    about = _read(folder / _MANIFEST) or {}
    for key, name in (("recipe", "sft_args.json"), ("data", "data.json"), ("scores", "scores.json")):
        found = [content for place in (ckpt_dir, ckpt_dir.parent) if (content := _read(place / name)) is not None]
        if found and key not in about:
            about[key] = found[0]
    _write(folder / _MANIFEST, json.dumps(about, indent=2, ensure_ascii=False) + "\n")


def _public(base: str | None) -> str:
    """Return the base's name without the path it had on this machine."""
    return Path(base).name if base and Path(base).is_absolute() else base or "unknown"


def _read(path: Path) -> Json | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    return content if isinstance(content, dict) else {"value": content}


def _write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path
