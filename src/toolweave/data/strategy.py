"""What to do with bad rows; a module of its own, so that the command line loads at once."""

from __future__ import annotations

from enum import StrEnum


class Strategy(StrEnum):
    """What to do with a row that fails a check."""

    NONE = "none"
    """Only rows that cannot be read are left out; nothing is checked."""
    DISCARD = "discard"
    """Bad rows are left out and counted."""
    ERROR = "error"
    """The first bad row is an error."""
    WARNING = "warning"
    """Bad rows are left out, and each is named."""
