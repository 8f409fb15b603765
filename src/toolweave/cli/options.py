"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

CkptDir = Annotated[Path, typer.Option("--ckpt_dir", help="Folder of the checkpoint.", show_default=False)]
OutputDir = Annotated[Path, typer.Option("--output_dir", help="Folder to write to.", show_default=False)]
