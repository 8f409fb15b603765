"""Keeping evaluation out of training: no row may ask what a held-out visit asks, or nearly so."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from toolweave.data.catalogue import Breadth
from toolweave.data.jsonl import numbered_lines, read_jsonl
from toolweave.data.synthesize import held_out_episodes
from toolweave.errors import DataError
from toolweave.traces.neardup import NearDuplicates
from toolweave.traces.recognise import recognise

THRESHOLD = 0.8
_SHINGLE = 3  # queries are short


class Leak(NamedTuple):
    """A training row, by its key, whose query is one of evaluation."""

    key: str
    query: str
    held_out: str


def held_out_queries(files: Iterable[Path] = ()) -> list[str]:
    """Return the queries of the built-in held-out visits and of files.

    A .jsonl file holds samples or any rows with `messages` or `query`; any other file holds one query a line.
    Raises DataError for a row that has neither.
    """
    queries = [turn.query for episode in held_out_episodes(breadth=Breadth.ALL) for turn in episode.turns]
    for path in files:
        queries += _of_rows(path) if path.suffix == ".jsonl" else _of_lines(path)
    return list(dict.fromkeys(queries))


def leaks(queries: Mapping[str, str], held_out: Iterable[str], threshold: float = THRESHOLD) -> list[Leak]:
    """Return the training queries, by key, that are equal or nearly equal to a held-out one."""
    known = NearDuplicates(threshold, _SHINGLE)
    for query in dict.fromkeys(held_out):
        known.add(query, query)
    found = ((key, query, known.find(query)) for key, query in queries.items())
    return [Leak(key, query, str(match.key)) for key, query, match in found if match is not None]


def _of_rows(path: Path) -> Iterator[str]:
    for line, row in read_jsonl(path):
        query = row.get("query") or recognise(row).query
        if not isinstance(query, str) or not query:
            raise DataError(f"{path}, line {line}: no query", "rows need messages or query")
        yield query


def _of_lines(path: Path) -> Iterator[str]:
    for line, content in numbered_lines(path):
        try:
            yield content.decode("utf-8").strip()
        except UnicodeError as error:
            raise DataError(f"{path}, line {line}: not UTF-8 text", "save the file in UTF-8") from error
