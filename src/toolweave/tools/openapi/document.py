"""Reading documents: JSON or YAML, and the references inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import yaml

from toolweave.errors import DataError
from toolweave.types import Json

_MAX_TEXT = 50_000_000
_MAX_HOPS = 20


class _Loader(yaml.CSafeLoader):
    """Safe, and with dates left as the text they are."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def read_document(text: str) -> Json:
    """Read a document from JSON or YAML text. Raises DataError."""
    if len(text) > _MAX_TEXT:
        raise DataError(f"the document is larger than {_MAX_TEXT:,} characters")
    try:
        content = json.loads(text) if text.lstrip().startswith("{") else yaml.load(text, _Loader)  # noqa: S506  # a safe loader
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"the document is neither JSON nor YAML: {error}") from error
    if not isinstance(content, dict):
        raise DataError("the document is not an object", "give the text of an OpenAPI or Swagger document")
    return content


def resolve(document: Mapping[str, Any], value: Any) -> Any:
    """Follow `$ref` from a value to what it means in the document.

    Raises DataError for a reference to another document, to nothing, or in a circle.
    """
    for _ in range(_MAX_HOPS):
        if not (isinstance(value, Mapping) and isinstance(value.get("$ref"), str)):
            return value
        value = pointed(document, value["$ref"])
    raise DataError(f"the reference {value.get('$ref')!r} goes in a circle")


def pointed(document: Mapping[str, Any], reference: str) -> Any:
    """Return what a local reference points to. Raises DataError."""
    if not reference.startswith("#"):
        raise DataError(f"the reference {reference!r} leads to another document, which is not fetched")
    value: Any = document
    for part in reference.removeprefix("#").split("/")[1:]:
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError, ValueError):
            raise DataError(f"the reference {reference!r} leads nowhere") from None
    return value
