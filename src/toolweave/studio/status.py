"""What answers in the preview: which model, which tools really run and which are simulated."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape

from toolweave.agents.spec import AgentSpec, ToolEntry
from toolweave.models.locate import EMBEDDED_TOOLS
from toolweave.studio.defaults import LOCAL_MODEL
from toolweave.studio.local_models import local_model
from toolweave.studio.pretend import key_name
from toolweave.studio.text import say
from toolweave.studio.workspace import Home
from toolweave.tools.registry import TOOL_REGISTRY
from toolweave.types import Lang


def status(home: Home, spec: AgentSpec, lang: Lang, *, simulate_all: bool = False) -> str:
    """Return the line above the preview as HTML."""
    used = [entry for entry in spec.tools if entry.use and entry.key in TOOL_REGISTRY]
    pretending = [entry for entry in used if simulate_all or _lacks_key(home, entry.key)]
    real = [entry for entry in used if entry not in pretending]
    chips = [_chip("model", say("preview.model_is", lang, model=spec.model or "–"))]
    chips += [_chip("real", say("preview.tools_real", lang, tools=_names(real)))] if real else []
    chips += [_chip("simulated", say("preview.tools_simulated", lang, tools=_names(pretending)))] if pretending else []
    chips += [] if used else [_chip("none", say("preview.no_tools", lang))]
    notes = [_note(say(_local_note(), lang, model=local_model()))] if spec.model == LOCAL_MODEL else []
    notes += [_note(problem) for problem in spec.problems()]
    return f'<div class="chips">{"".join(chips)}</div>{"".join(notes)}'


def _lacks_key(home: Home, tool: str) -> bool:
    name = key_name(TOOL_REGISTRY[tool])
    return bool(name) and not os.environ.get(name) and not home.key(f"tool:{tool}")


def _local_note() -> str:
    return "preview.local_base" if local_model() == EMBEDDED_TOOLS else "preview.local_tuned"


def _names(entries: Sequence[ToolEntry]) -> str:
    return ", ".join(entry.name for entry in entries)


def _chip(kind: str, text: str) -> str:
    return f'<span class="chip {kind}">{escape(text)}</span>'


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'
