"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

_LONGEST = 180  # seconds


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + _LONGEST
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.02)
