"""Results kept for objects that cannot be hashed, such as tools with their JSON Schemas."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _Kept(Generic[T, R]):
    """The last results by identity; the objects are kept alive, so an identity is never another object's."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._results: dict[int, tuple[T, R]] = {}

    def get(self, function: Callable[[T], R], value: T) -> R:
        found = self._results.get(id(value))
        if found is not None:
            return found[1]
        result = function(value)
        if len(self._results) >= self._size:
            self._results.pop(next(iter(self._results)), None)
        self._results[id(value)] = (value, result)
        return result


def cached_by_identity(function: Callable[[T], R]) -> Callable[[T], R]:
    """Keep the last 4096 results of a function of one object, which is never changed after it was made."""
    kept: _Kept[T, R] = _Kept(4096)

    @wraps(function)
    def cached(value: T) -> R:
        return kept.get(function, value)

    return cached
