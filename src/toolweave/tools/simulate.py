"""Tools that do nothing: they answer from a recording, or make a labelled value."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from typing import Any

from toolweave.errors import ToolError
from toolweave.tools.base import BaseTool
from toolweave.types import Json, ToolSpec

LABEL = "[simulated] "
"""What a made-up observation begins with, so that nobody takes it for true."""

_STRINGS = {
    "date": "2024-05-01",
    "date-time": "2024-05-01T08:30:00Z",
    "time": "08:30:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "192.0.2.1",
}
_MAX_DEPTH = 6


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
    `label` is put before each observation.
    """

    def __init__(self, spec: ToolSpec, results: Mapping[str, str], label: str = "") -> None:
        super().__init__(spec)
        self._results = {canonical_json(arguments): observation for arguments, observation in results.items()}
        self._label = label

    def call(self, params: str, **kwargs: Any) -> str:
        """Return the recorded observation. Raises ToolError for arguments that were not recorded."""
        self._verify_args(params)
        try:
            return self._label + self._results[canonical_json(params)]
        except KeyError:
            raise ToolError("nothing is recorded for these arguments") from None


class Simulated(SpecTool):
    """Answers every valid call with a value that says it is simulated.

    With `result`, the JSON Schema of the tool's results, the value fits it; the same arguments give the same value.
    """

    def __init__(self, spec: ToolSpec, result: Json | None = None) -> None:
        super().__init__(spec)
        self._result = result

    def call(self, params: str, **kwargs: Any) -> str:
        """Return `[simulated] name(arguments)`, or `[simulated] value`.

        Raises ToolError for arguments that the schema refuses.
        """
        arguments = json.dumps(self._verify_args(params), ensure_ascii=False)
        if self._result is None:
            return f"{LABEL}{self.name}({arguments})"
        seed = hashlib.sha256(f"{self.name}{canonical_json(params)}".encode()).digest()
        return LABEL + json.dumps(example(self._result, random.Random(seed)), ensure_ascii=False)


def simulate(tool: BaseTool, results: Mapping[str, str] | None = None) -> BaseTool:
    """Return a simulator in place of a tool: same name, description and parameters, and no effect.

    It answers what `results` recorded, or makes values; either way the observation is labelled.
    """
    if results is not None:
        return Recorded(tool.spec(), results, LABEL)
    return Simulated(tool.spec(), tool.result_schema())


def example(schema: object, random_: random.Random, depth: int = 0) -> Any:
    """Return a value that fits a JSON Schema as far as it is understood; the schema's own example if it has one."""
    if not isinstance(schema, Mapping):
        return None
    if depth > _MAX_DEPTH:
        schema = {"type": schema.get("type", "object")}
    if "const" in schema or "example" in schema:
        return schema.get("const", schema.get("example"))
    if schema.get("enum"):
        return random_.choice(list(schema["enum"]))
    for several in ("oneOf", "anyOf"):
        if schema.get(several):
            return example(schema[several][0], random_, depth + 1)
    if schema.get("allOf"):
        parts = [example(part, random_, depth + 1) for part in schema["allOf"]]
        plain = [part for part in parts if not isinstance(part, dict)]
        return plain[0] if plain else {key: value for part in parts for key, value in part.items()}
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    match kind:
        case "string":
            text = _STRINGS.get(str(schema.get("format")), f"text {random_.randrange(100)}")
            return text.ljust(int(schema.get("minLength", 0)), "x")[: int(schema.get("maxLength", 1000))]
        case "integer" | "number":
            low = schema.get("minimum", 0)
            high = schema.get("maximum", low + 100)
            return random_.randint(int(low), max(int(low), int(high)))
        case "boolean":
            return random_.random() < 0.5
        case "array":
            size = max(int(schema.get("minItems", 1)), 1)
            return [example(schema.get("items", {}), random_, depth + 1) for _ in range(min(size, 10))]
        case "null":
            return None
    properties = schema.get("properties") or {}
    return {name: example(value, random_, depth + 1) for name, value in properties.items()}


def canonical_json(arguments: str) -> str:
    """Return JSON text in one spelling: sorted keys, default separators, Chinese left readable."""
    return json.dumps(json.loads(arguments or "{}"), ensure_ascii=False, sort_keys=True)
