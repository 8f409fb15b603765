"""How large tensors get their memory, and give it back."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache

import psutil

# A step of 3,000 tokens of the embedded model needs 3 GiB, and the demo is to stay below 6.
_KEPT_BYTES = 2**32


def use_huge_pages() -> None:
    """Let torch's CPU allocator ask for huge pages, unless the environment says otherwise; call it before torch loads.

    A step's tensors are megabytes each, and the system clears a page at its first use: 2 MB at a time instead of 4 KB.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


class FreedMemory:
    """What a step frees, kept for the next one within a bound.

    To give all of it back after each step costs an eighth of the speed, as the system then clears every page again. To
    keep all of it makes memory grow: a larger step finds no room among what smaller ones freed.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self._largest = 0

    def make_room(self, tokens: int) -> None:
        """Before a step of so many distinct tokens, give pages back if it is larger than those since, or they are many.

        Does nothing where the C library is not glibc.
        """
        kept = self._process.memory_info().rss - self._before
        if tokens > self._largest or kept > _KEPT_BYTES:
            self._largest = tokens
            if trim := _malloc_trim():
                trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or Windows, which has no library without a name
        return None
