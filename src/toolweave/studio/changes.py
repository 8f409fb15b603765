"""What differs between two states of an agent, in the words of the form."""

from __future__ import annotations

from toolweave.studio.text import say, table
from toolweave.types import Json, Lang


def changed_fields(before: Json, after: Json, lang: Lang) -> list[str]:
    """Return the labels of the fields of `builder_config` that differ; a field that the form lacks goes by its key."""
    changed = [key for key in dict.fromkeys([*before, *after]) if before.get(key) != after.get(key)]
    return [say(f"fields.{key}", lang) if f"fields.{key}" in table() else key for key in changed]
