"""How large tensors get their memory, and give it back."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache

import psutil

# With it the demo stays under 6 GiB; a step of 3,000 tokens of its model needs 3 GiB.
_KEPT_BYTES = 7 * 2**29


def use_huge_pages() -> None:
    """Let torch's CPU allocator ask for huge pages, unless the environment says otherwise; call it before torch loads.

    A step's tensors are megabytes each, and the system clears a page at its first use: 2 MB at a time instead of 4 KB.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


class FreedMemory:
    """What a step frees, kept for the next one within a bound.

    Steps differ in size, and what one frees seldom fits the next: left alone, memory grows with the number of steps. To
    give it all back after each costs an eighth of the speed, as the system then clears every page again.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss

    def bound(self) -> None:
        """Give pages back to the system if there are too many and the C library is glibc; call it between steps."""
        trim = _malloc_trim()
        if trim is not None and self._process.memory_info().rss - self._before > _KEPT_BYTES:
            trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or Windows, which has no library without a name
        return None
