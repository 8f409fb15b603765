"""compare."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolweave.studio.shell import Studio


def build(studio: Studio) -> None:
    """Build the view."""
