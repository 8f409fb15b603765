"""What can be wrong with a row, in kinds that a report can count."""

from __future__ import annotations

from enum import StrEnum

from toolweave.errors import DataError


class Failure(StrEnum):
    """Why a row cannot be used."""

    UNREADABLE = "unreadable"
    ROLES = "roles do not alternate"
    OBSERVATION = "call without observation"
    UNKNOWN_TOOL = "unknown tool"
    MISSING = "missing argument"
    TYPE = "wrong type"
    ENUM = "not in the enum"
    EXTRA = "unknown argument"
    ARGUMENTS = "other argument error"
    SCHEMA = "unusable tool schema"
    EMPTY = "nothing to learn"
    UNSAYABLE = "not sayable in the dialect"
    TEMPLATE = "chat template refuses it"
    LENGTH = "too long"
    UNFAITHFUL = "unfaithful answer"
    UNLIKE = "not the kind of visit that was asked for"


class RowError(DataError):
    """A row that cannot be used: which kind of failure, and of which tool if one is to blame.

    `zh` is the message in Chinese where a Chinese page shows it, else the English one.
    """

    def __init__(
        self, message: str, hint: str = "", *, failure: Failure = Failure.UNREADABLE, tool: str = "", zh: str = ""
    ) -> None:
        super().__init__(message, hint)
        self.failure = failure
        self.tool = tool
        self.zh = zh or message


def failure_of(error: DataError) -> Failure:
    """Return the kind of an error that a row caused."""
    return error.failure if isinstance(error, RowError) else Failure.UNREADABLE
