"""The command line: a table of commands, each a thin call of the Python API.

Errors a user can mend end on stderr with exit code 2, an interruption with 130. Heavy modules are
imported inside the commands, so that `--help` answers at once. Options are spelled as SWIFT spells them.
Each module of this package adds the commands of one area to `app`.
"""

from __future__ import annotations

import errno
import sys
import warnings
from collections.abc import Sequence

import typer

from toolweave.cli import agents, data, evals, models, studio, traces, training
from toolweave.errors import Interrupted, ToolweaveError
from toolweave.training.recipe import ALIASES, takes_list

_INTERRUPTED = 130
_GO_ON = "interrupted: run the same command again to go on"

app = typer.Typer(
    help="Weave tool calling into a small model, serve it, and prove it.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for area in (data, traces, training, models, agents, evals, studio):
    area.register(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; `arguments` default to the process's own. Always raises SystemExit."""
    # peft still asks transformers by the old name; nothing a user could mend.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
    try:
        app(_spread(list(sys.argv[1:] if arguments is None else arguments)), prog_name="toolweave")
    except Interrupted as stopped:
        typer.echo(str(stopped), err=True)
        raise SystemExit(_INTERRUPTED) from stopped
    except ToolweaveError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(f"no space left on the disk: {error.filename or error}\n  hint: free some space and run it again")
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:
            typer.echo(_GO_ON, err=True)
        raise


def _fail(message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    raise SystemExit(2)


def _spread(arguments: list[str]) -> list[str]:
    """Turn SWIFT's `--dataset a b` into `--dataset a --dataset b`."""
    spread: list[str] = []
    listing = ""
    for argument in arguments:
        if argument.startswith("--"):
            name = argument[2:]
            listing = argument if takes_list(ALIASES.get(name, name)) else ""
        elif listing and spread[-1] != listing:
            spread.append(listing)
        spread.append(argument)
    return spread
