"""How large tensors get their memory, and give it back."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache


def use_huge_pages() -> None:
    """Let torch's CPU allocator ask for huge pages, unless the environment says otherwise; call it before torch loads.

    A step's tensors are megabytes each, and the system clears a page at its first use: 2 MB at a time instead of 4 KB.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def give_back() -> None:
    """Give the pages of freed tensors back to the system, where the C library is glibc.

    Steps differ in size, and glibc keeps what one frees although it seldom fits the next: memory would grow with the
    number of steps. To get it again costs the next step a tenth of its time.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or Windows, which has no library without a name
        return None
