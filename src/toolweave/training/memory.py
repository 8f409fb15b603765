"""The memory that freed tensors leave behind."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Give the pages of freed tensors back to the system, where the C library is glibc.

    Steps differ in size, and glibc keeps what one frees although it seldom fits the next: memory would grow with the
    number of steps.
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
