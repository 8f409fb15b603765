"""Taking a tuned model into use: merged, listed in `model_config.json`, its server started, an agent set to it."""

from __future__ import annotations

from dataclasses import replace
from threading import Lock

from toolweave.studio.runs import Runs
from toolweave.studio.workspace import Home

_merging = Lock()  # both sides of a comparison may want the same model


def listed(home: Home, run: str) -> str:
    """Merge the best checkpoint of a run, add it to the user's models, and return its key there.

    Raises ToolweaveError when there is no checkpoint, or the merge fails.
    """
    with _merging:
        merged = Runs(home.runs).merged(run)
    key = f"{run.replace('/', '-')}-{merged.name.removesuffix('-merged')}"
    home.save_model(key, {"type": "toolweave", "model": str(merged.resolve())})
    return key


def use(home: Home, agent: str, model: str) -> None:
    """Let an agent use a model of the user's, and start its server if the Studio serves it. Raises ToolweaveError."""
    spec = home.agent(agent)
    home.llm(model)
    home.save_agent(agent, replace(spec, builder={**spec.builder, "model": model}))
