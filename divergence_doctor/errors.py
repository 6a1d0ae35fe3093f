"""Which errors does the doctor raise on purpose, and what does each one tell the user?

    DoctorError                     exit  what went wrong
    ├── UsageError                  2     an input that cannot be found or understood
    │   ├── NotFoundError           2     the path does not exist, or is the wrong kind of thing
    │   ├── BatchError              2     the arrays do not fit the model
    │   ├── CheckpointError         2     the checkpoint cannot be opened as it was asked for
    │   ├── MissingPackageError     2     a package that only this needs is not installed
    │   └── OutputError             2     the output folder exists, or cannot be written
    ├── RefusedError                4     an input refused as corrupt or unsafe
    └── LimitError                  5     a limit on time or memory was hit

Every one names the thing and what happened (``message``), the reason (``why``) and the way out
(``fix``); the command line prints the three and exits with ``exit_status``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from traceback import FrameSummary


class DoctorError(Exception):
    """An error with a message for the user: what, why and the way out.

    Args:
        slug: short kebab-case name of the problem, e.g. ``"not-a-batch"``.
        message: one line that names the thing and what is wrong with it.
        why: one line with the reason.
        fix: one line with the way out.
    """

    exit_status: ClassVar[int] = 2

    def __init__(self, slug: str, message: str, *, why: str, fix: str) -> None:
        super().__init__(message)
        self.slug: Final = slug
        self.message: Final = message
        self.why: Final = why
        self.fix: Final = fix

    def __str__(self) -> str:
        return f"error[{self.slug}]: {self.message}\n  why: {self.why}\n  fix: {self.fix}"


class UsageError(DoctorError):
    """The command, or an input it names, cannot be found or understood."""


class NotFoundError(UsageError):
    """A path does not exist or is the wrong kind of thing."""


class BatchError(UsageError):
    """The batch cannot be read as arrays that fit the model."""


class CheckpointError(UsageError):
    """The checkpoint cannot be opened as it was asked for."""


class MissingPackageError(UsageError, ImportError):
    """A package that only what was asked for needs is not installed."""


class OutputError(UsageError):
    """The output exists already, cannot be written, or the disk is full."""


class RefusedError(DoctorError):
    """An input is corrupt, or could harm the machine that reads it."""

    exit_status: ClassVar[int] = 4


class LimitError(DoctorError):
    """A limit on time or memory was hit."""

    exit_status: ClassVar[int] = 5


#: What a child process may name when it hands an error to its parent.
BY_NAME: Final[dict[str, type[DoctorError]]] = {
    error.__name__: error
    for error in (
        UsageError,
        NotFoundError,
        BatchError,
        CheckpointError,
        OutputError,
        RefusedError,
        LimitError,
    )
}


def describe_bug(error: Exception, frames: Sequence[FrameSummary]) -> str:
    """Return what to tell of an error that nobody expected: what, where, and what to do."""
    last = frames[-1] if frames else None
    where = f"{last.filename.rpartition('/')[2]}:{last.lineno} in {last.name}" if last else "?"
    return (
        f"error[bug]: {type(error).__name__}: {error}\n"
        f"  why: a bug in the doctor ({where})\n"
        "  fix: please report it, with this message and the output of `doctor env`"
    )
