"""What a user begins with: models, tools, and a first agent."""

from __future__ import annotations

import os
from pathlib import Path

from toolweave.agents.spec import FileKind
from toolweave.data.catalogue import load_catalogue
from toolweave.data.json_files import read_json
from toolweave.studio.local_models import local_model
from toolweave.studio.text import say
from toolweave.tools import TOOL_REGISTRY
from toolweave.types import Json, Lang

LOCAL_MODEL = "toolweave-local"
FIRST_AGENT = "weather_painter"

# In the order in which the form shows them.
_TOOLS = (
    "amap_weather", "image_gen", "code_interpreter", "web_search", "web_browser", "qwen_vl", "paraformer_asr",
    "sambert_tts", "style_repaint", "image_enhancement", "wordart_texture_generation",
)  # fmt: skip


def default_models() -> Json:
    """Return `model_config`: the local model, then those of MODEL_CONFIG_FILE or a few that many have a key for."""
    local: Json = {LOCAL_MODEL: {"type": "toolweave", "model": local_model()}}
    override = os.environ.get(FileKind.MODELS.variable)
    if override and Path(override).is_file():
        return local | read_json(Path(override))
    return local | {
        "qwen-plus": {"type": "dashscope", "model": "qwen-plus"},
        "qwen-max": {"type": "dashscope", "model": "qwen-max"},
        "glm-4": {"type": "zhipu", "model": "glm-4"},
        "gpt-4o-mini": {"type": "openai", "model": "gpt-4o-mini"},
        "ollama": {"type": "ollama", "model": "qwen3:4b"},
    }


def default_tools(lang: Lang) -> Json:
    """Return `tool_config`: every built-in tool, offered and not used."""
    known = [name for name in _TOOLS if name in TOOL_REGISTRY]
    return {name: {"name": say(f"tools.{name}", lang), "is_active": True, "use": False} for name in known}


def blank_agent(lang: Lang) -> Json:
    """Return the `builder_config` of a new agent."""
    suggestions = [say(f"defaults.suggestion_{number}", lang) for number in range(1, 5)]
    return {
        "name": "", "avatar": "", "description": "", "instruction": "", "language": lang.value, "prologue": "",
        "prompt_recommend": suggestions, "knowledge": [], "tools": {}, "model": LOCAL_MODEL,
    }  # fmt: skip


def first_agent(lang: Lang) -> Json:
    """Return the `builder_config` of the agent that the demo's model was tuned for."""
    agent = next(agent for agent in load_catalogue().agents if agent.key == FIRST_AGENT)
    label = default_tools(lang)
    return blank_agent(lang) | {
        "name": agent.name[lang],
        "description": agent.description[lang],
        "instruction": "；".join(agent.functions[lang]) if lang is Lang.ZH else "; ".join(agent.functions[lang]),
        "prologue": say("defaults.prologue", lang),
        "prompt_recommend": [say(f"defaults.weather_{number}", lang) for number in range(1, 4)],
        "tools": {name: label[name] | {"use": True} for name in ("amap_weather", "image_gen")},
    }
