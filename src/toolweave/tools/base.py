"""What a tool is: a name, a description, parameters, and `call`."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from toolweave.errors import ToolError
from toolweave.types import Json, ToolSpec


class Effect(StrEnum):
    """What a call does beside answering."""

    READ = "read"
    """Only looks: calls may run side by side."""
    WRITE = "write"
    """Changes or makes something: calls run one after the other."""
    DANGEROUS = "dangerous"
    """May destroy something: a policy can ask the user first."""


class BaseTool(ABC):
    """A tool. Subclasses set the class attributes and implement `call`.

    `parameters` is AgentFabric's list of `{name, type, description, required, enum?}`. `cfg` is the tool's
    own configuration, as in `function_list=[{"name": cfg}]`; the `operator_keys` among it are never taken from
    an agent's files, which may come from somebody else.
    """

    name: str = ""
    description: str = ""
    parameters: Sequence[Mapping[str, Any]] = ()
    effect: Effect = Effect.READ
    operator_keys: frozenset[str] = frozenset()

    def __init__(self, cfg: Mapping[str, Any] | None = None) -> None:
        self.cfg: Json = dict(cfg or {})

    @abstractmethod
    def call(self, params: str, **kwargs: Any) -> str:
        """Run the tool on `params`, a JSON object as text, and return the observation.

        Raises ToolError with a text that the model can act on. `kwargs` are those of `RolePlay.run`; built-in tools
        look at `append_files` (paths of the uploads), `cancel` (a threading.Event) and `progress` (takes a text).
        """

    @property
    def function(self) -> Json:
        """The OpenAI function schema: `{name, description, parameters}`."""
        return {"name": self.name, "description": self.description, "parameters": self.spec().parameters}

    def spec(self) -> ToolSpec:
        """Return the tool as the model sees it."""
        properties = {parameter["name"]: _property(parameter) for parameter in self.parameters}
        required = [parameter["name"] for parameter in self.parameters if parameter.get("required")]
        schema = {"type": "object", "properties": properties, "required": required}
        return ToolSpec(self.name, self.description, schema)

    def result_schema(self) -> Json | None:
        """Return the JSON Schema of what `call` returns, None where it is not known."""
        return None

    def _verify_args(self, params: str) -> Json:
        """Return the arguments, checked against the schema. Raises ToolError saying what is wrong.

        The name is upstream's, so that tools written for it run unchanged.
        """
        try:
            arguments = json.loads(params or "{}")
        except ValueError as error:
            raise ToolError(f"the arguments are not valid JSON: {error}") from None
        if not isinstance(arguments, dict):
            raise ToolError("the arguments are not a JSON object")
        problem = best_match(Draft202012Validator(self.spec().parameters).iter_errors(arguments))
        if problem is not None:
            where = ".".join(str(part) for part in problem.absolute_path)
            raise ToolError(f"{where}: {problem.message}" if where else problem.message)
        return arguments


def _property(parameter: Mapping[str, Any]) -> Json:
    # The order of the keys is wire format: the schema is written into the prompt as it stands.
    schema: Json = {"type": parameter.get("type", "string"), "description": parameter.get("description", "")}
    if parameter.get("enum"):
        schema["enum"] = list(parameter["enum"])
    return schema
