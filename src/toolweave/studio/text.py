"""Everything the interface says, in Chinese and English: one table, read from `texts/*.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml

from toolweave.errors import DataError
from toolweave.types import Lang

Table = Mapping[str, Mapping[str, str]]


@cache
def table() -> Table:
    """Return the strings by key and language. Raises DataError for a key that stands twice or lacks a language.

    A file of `texts` is a view's; its keys begin with the file's name and a dot.
    """
    found: dict[str, Mapping[str, str]] = {}
    files = [path for path in (resources.files("toolweave.studio") / "texts").iterdir() if path.name.endswith(".yaml")]
    for path in sorted(files, key=lambda path: path.name):
        area = path.name.removesuffix(".yaml")
        for name, said in yaml.load(path.read_text("utf-8"), yaml.CSafeLoader).items():
            if missing := [lang.value for lang in Lang if not said.get(lang.value)]:
                raise DataError(f"texts/{path.name}: {name} is not said in {', '.join(missing)}")
            found[f"{area}.{name}"] = said
    return found


def say(key: str, lang: Lang, **values: object) -> str:
    """Return a string of the interface, its `{placeholders}` filled. Raises KeyError for an unknown key."""
    return table()[key][lang.value].format(**values)
