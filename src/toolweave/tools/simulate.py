"""Tools that do nothing: they answer from a recording, or make a labelled value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toolweave.errors import ToolError
from toolweave.tools.base import BaseTool
from toolweave.types import ToolSpec


class SpecTool(BaseTool):
    """A tool described by a `ToolSpec` instead of class attributes."""

    def __init__(self, spec: ToolSpec) -> None:
        super().__init__()
        self._spec = spec
        self.name, self.description = spec.name, spec.description
        required = spec.parameters.get("required", [])
        self.parameters = [
            {"name": name, **schema, "required": name in required}
            for name, schema in spec.parameters.get("properties", {}).items()
        ]

    def spec(self) -> ToolSpec:
        """Return the spec, key for key as it was given."""
        return self._spec


class Recorded(SpecTool):
    """Answers calls from a recording.

    `results` maps arguments, a JSON object as text, to the observation; the order of keys and blanks do not count.
    """

    def __init__(self, spec: ToolSpec, results: Mapping[str, str]) -> None:
        super().__init__(spec)
        self._results = {canonical_json(arguments): observation for arguments, observation in results.items()}

    def call(self, params: str, **kwargs: Any) -> str:
        """Return the recorded observation. Raises ToolError for arguments that were not recorded."""
        self._verify_args(params)
        try:
            return self._results[canonical_json(params)]
        except KeyError:
            raise ToolError("nothing is recorded for these arguments") from None


class Simulated(SpecTool):
    """Answers every valid call with a value that says it is simulated."""

    def call(self, params: str, **kwargs: Any) -> str:
        """Return `[simulated] name(arguments)`. Raises ToolError for arguments that the schema refuses."""
        arguments = json.dumps(self._verify_args(params), ensure_ascii=False)
        return f"[simulated] {self.name}({arguments})"


def canonical_json(arguments: str) -> str:
    """Return JSON text in one spelling: sorted keys, default separators, Chinese left readable."""
    return json.dumps(json.loads(arguments or "{}"), ensure_ascii=False, sort_keys=True)
