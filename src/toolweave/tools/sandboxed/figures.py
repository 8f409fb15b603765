"""A matplotlib backend that saves a figure as PNG in the working folder when it is shown."""

from __future__ import annotations

from itertools import count
from pathlib import Path

from matplotlib._pylab_helpers import Gcf
from matplotlib.backend_bases import FigureManagerBase
from matplotlib.backends.backend_agg import FigureCanvasAgg


class FigureManager(FigureManagerBase):
    """Saves instead of showing."""

    @classmethod
    def pyplot_show(cls, *, block: bool | None = None) -> None:
        """Save and close every open figure."""
        for manager in Gcf.get_all_fig_managers():
            name = next(name for number in count(1) if not Path(name := f"figure-{number}.png").exists())
            manager.canvas.figure.savefig(name)
        Gcf.destroy_all()


class FigureCanvas(FigureCanvasAgg):
    """Draws with Agg."""

    manager_class = FigureManager
