"""BFCL's AST matching for Python functions, result for result that of the official `bfcl-eval` 2026.3.23.

Its oddities are kept, for the scores must be the same: a list may be left empty where the parameter may be left
out, the types of nested values are checked one level deep, and a string counts where the answers are strings, whatever
the declared type (a variable's name, in their words).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from toolweave.types import Json

Call = Mapping[str, Json]
"""`{name: arguments}`, as BFCL writes a call."""

_TYPES: dict[str, type] = {
    "string": str,
    "integer": int,
    "float": float,
    "boolean": bool,
    "array": list,
    "tuple": list,
    "dict": dict,
    "any": str,
}
_NESTED = ("array", "tuple")
_DROPPED = re.compile(r"[ ,./\-_*^]")


def match(category: str, functions: Sequence[Json], calls: Sequence[Call], answers: Sequence[Call]) -> str | None:
    """Return why the calls do not match the possible answers, or None when they do."""
    if len(calls) != len(answers):
        return "wrong number of calls"
    if "parallel" in category:
        return _match_in_any_order(functions, calls, answers)
    if "multiple" in category:
        name = next(iter(answers[0]))
        return _match_one(_described(functions, name), calls[0], answers[0])
    return _match_one(functions[0], calls[0], answers[0])


def _match_in_any_order(functions: Sequence[Json], calls: Sequence[Call], answers: Sequence[Call]) -> str | None:
    left = list(calls)
    for answer in answers:
        function = _described(functions, next(iter(answer)))
        found = next((i for i, call in enumerate(left) if _match_one(function, call, answer) is None), None)
        if found is None:
            return f"no call matches {next(iter(answer))}"
        del left[found]
    return None


def _described(functions: Sequence[Json], name: str) -> Json:
    return next(function for function in functions if function["name"] == name)


def _match_one(function: Json, call: Call, answer: Call) -> str | None:
    allowed: Json = next(iter(answer.values()))
    if function["name"] not in call:
        return f"wrong function: {', '.join(call)} instead of {function['name']}"
    given, known = call[function["name"]], function["parameters"]["properties"]
    for name in function["parameters"]["required"]:
        if name not in given:
            return f"missing {name}"
    for name, value in given.items():
        if name not in known or name not in allowed:
            return f"unexpected {name}"
        if (problem := _match_value(known[name], value, allowed[name])) is not None:
            return f"{name}: {problem}"
    for name, values in allowed.items():
        if name not in given and "" not in values:
            return f"missing {name}"
    return None


def _match_value(schema: Json, value: Any, allowed: list[Any]) -> str | None:
    declared = _TYPES[schema["type"]]
    nested = _TYPES[schema["items"]["type"]] if schema["type"] in _NESTED else None
    if schema["type"] == "tuple" and isinstance(value, tuple):
        value = list(value)
    if schema["type"] == "float" and type(value) is int:
        value = float(value)
    typed, variable = _check_type(value, allowed, declared, nested)
    if not typed:
        return f"wrong type {type(value).__name__}"
    fits = value in allowed
    if not variable:
        if declared is dict:
            fits = _dict_fits(value, allowed)
        elif declared is list and nested is dict:
            fits = _dicts_fit(value, allowed)
        elif declared is str:
            fits = _plain(value) in [_plain(item) for item in allowed if isinstance(item, str)]
        elif declared is list:
            fits = [_plain(item) for item in value] in [[_plain(item) for item in items] for items in allowed]
    return None if fits else f"{value!r} is none of {allowed!r}"


def _check_type(value: Any, allowed: list[Any], declared: type, nested: type | None) -> tuple[bool, bool]:
    """Return (has a right type, stands for a variable)."""
    of_answer = next((type(item) for item in allowed if item != ""), None)
    variable = of_answer is not None and of_answer is not declared
    if type(value) is declared:
        if nested is None or not isinstance(value, list):
            return True, variable
        for items in allowed:
            if not isinstance(items, list) or all(_check_type(item, items, nested, None)[0] for item in value):
                return True, variable
    # Also where the items of a list fail: the answers are lists, and their type alone is asked now.
    return (True, True) if of_answer is not None and type(value) is of_answer else (False, variable)


def _dict_fits(value: Json, allowed: list[Any]) -> bool:
    for answer in allowed:
        if answer == "":
            continue
        values_fit = all(
            key in answer and _plain(item) in [_plain(option) for option in answer[key]] for key, item in value.items()
        )
        if values_fit and all(key in value or "" in options for key, options in answer.items()):
            return True
    return False


def _dicts_fit(value: list[Any], allowed: list[Any]) -> bool:
    return any(
        len(value) == len(answers)
        and all(_dict_fits(item, [answer]) for item, answer in zip(value, answers, strict=True))
        for answers in allowed
    )


def _plain(value: Any) -> Any:
    """Return a string without blanks, punctuation and case; anything else as it is."""
    return _DROPPED.sub("", value).lower().replace("'", '"') if isinstance(value, str) else value
