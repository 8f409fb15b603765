"""Errors a user can mend. The command line prints them on one line and exits with code 2."""

from __future__ import annotations


class ToolweaveError(Exception):
    """Base of all errors raised on purpose: `message` says what and where, `hint` how to mend it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n  hint: {hint}" if hint else message)


class DataError(ToolweaveError):
    """A data file or row that cannot be used."""


class ModelError(ToolweaveError):
    """A base model, adapter or checkpoint that cannot be used."""


class ServerError(ToolweaveError):
    """A model server that cannot be started or reached."""


class ToolError(ToolweaveError):
    """A tool that failed; the text goes back to the model as the observation."""


class Interrupted(ToolweaveError):  # noqa: N818  # no error: it was asked for
    """A run that was stopped on request and can go on; the command line exits with code 130."""
