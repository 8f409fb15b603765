"""The form of an agent: the fields of `builder_config`, what is wrong with them, and what saving changes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from toolweave.agents.spec import AgentSpec
from toolweave.errors import DataError
from toolweave.knowledge import read_document
from toolweave.studio.text import say
from toolweave.studio.workspace import Home, file_name
from toolweave.tools.registry import TOOL_REGISTRY
from toolweave.types import Json, Lang

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")
_MAX_PICTURE = 5_000_000


@dataclass(frozen=True, slots=True)
class Form:
    """What the form shows. `suggestions` has one a line, `tools` the keys of those in use."""

    name: str = ""
    description: str = ""
    instruction: str = ""
    language: str = Lang.ZH.value
    model: str = ""
    prologue: str = ""
    suggestions: str = ""
    tools: Sequence[str] = ()
    knowledge: Sequence[str] = ()

    @classmethod
    def of(cls, spec: AgentSpec) -> Form:
        """Read an agent into the form."""
        return cls(
            name=spec.name,
            description=spec.description,
            instruction=spec.instruction,
            language=spec.lang.value,
            model=spec.model,
            prologue=spec.prologue,
            suggestions="\n".join(spec.suggestions),
            tools=[entry.key for entry in spec.tools if entry.use and entry.key in TOOL_REGISTRY],
            knowledge=[str(name) for name in spec.builder.get("knowledge") or ()],
        )

    def problems(self, spec: AgentSpec, lang: Lang) -> Mapping[str, str]:
        """Return what is wrong, by field."""
        found: dict[str, str] = {}
        if not self.name.strip():
            found["name"] = say("configure.name_missing", lang)
        if not self.instruction.strip():
            found["instruction"] = say("configure.instruction_missing", lang)
        if self.model not in spec.models:
            found["model"] = say("configure.model_unknown", lang, model=self.model or "–")
        return found

    def apply(self, spec: AgentSpec) -> AgentSpec:
        """Return the agent with what the form says; whatever the form does not know stays."""
        before = Form.of(spec)
        changed: Json = {}
        for field in ("name", "description", "instruction", "language", "model", "prologue"):
            if getattr(self, field) != getattr(before, field):
                changed[field] = getattr(self, field)
        if self.suggestions != before.suggestions:
            changed["prompt_recommend"] = [line.strip() for line in self.suggestions.splitlines() if line.strip()]
        if list(self.knowledge) != list(before.knowledge):
            changed["knowledge"] = list(self.knowledge)
        if set(self.tools) != set(before.tools):
            changed["tools"] = _tools(spec, set(self.tools))
        return replace(spec, builder=spec.builder | changed)


def _tools(spec: AgentSpec, used: set[str]) -> Json:
    own: Json = dict(spec.builder.get("tools") or {})
    for entry in spec.tools:
        if entry.key not in TOOL_REGISTRY or entry.use == (entry.key in used):
            continue
        label = {"name": entry.name, "is_active": True}
        own[entry.key] = {**label, **(own.get(entry.key) or {}), "use": entry.key in used}
    return own


def add_knowledge(home: Home, agent: str, files: Sequence[Path]) -> AgentSpec:
    """Copy documents into an agent's folder, save it, and return it. Raises DataError for one that cannot be read."""
    spec = home.agent(agent)
    for file in files:
        read_document(file)
    names = [shutil.copyfile(file, home.agent_folder(agent) / file_name(file.name)).name for file in files]
    known = [str(name) for name in spec.builder.get("knowledge") or ()]
    spec = replace(spec, builder=spec.builder | {"knowledge": list(dict.fromkeys([*known, *names]))})
    home.save_agent(agent, spec)
    return spec


def set_avatar(home: Home, agent: str, picture: Path | None) -> None:
    """Give an agent a picture, or none. Raises DataError for what is no picture or too large."""
    spec, name = home.agent(agent), ""
    if picture is not None:
        if picture.suffix.lower() not in _PICTURES or picture.stat().st_size > _MAX_PICTURE:
            raise DataError(f"{picture.name} cannot be an avatar", f"use a picture below {_MAX_PICTURE // 10**6} MB")
        name = f"avatar{picture.suffix.lower()}"
        shutil.copyfile(picture, home.agent_folder(agent) / name)
    home.save_agent(agent, replace(spec, builder=spec.builder | {"avatar": name}))


def avatar_file(spec: AgentSpec) -> Path | None:
    """Return the picture of an agent, None if it has none."""
    if spec.folder is None or not spec.avatar:
        return None
    path = spec.folder / Path(spec.avatar).name
    good = path.suffix.lower() in _PICTURES and path.is_file() and not path.is_symlink()
    return path if good else None
