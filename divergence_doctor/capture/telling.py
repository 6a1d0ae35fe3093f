"""How does the recorder speak to the user? In single lines on standard error; failures once."""

from __future__ import annotations

import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from divergence_doctor._clean import argument, clean

if TYPE_CHECKING:
    from pathlib import Path

_warned: WeakSet[Any] = WeakSet()


def tell(line: str) -> None:
    """Print a line to standard error; one that nobody can read is no error."""
    try:
        print(f"\ndivergence_doctor: {line}", file=sys.stderr, flush=True)  # noqa: T201
    except (OSError, ValueError):
        return


def tell_bundle(message: str, step: int, epoch: int, path: Path, *, code: str | None) -> None:
    """Print why a bundle was written, where it is, and the command that explains it."""
    extra = f" {code}" if code else ""
    shown = _from_here(path)
    tell(
        f"{clean(message, 300)} (step {step}, epoch {epoch}); kept in {shown}\n"
        f"divergence_doctor: for the cause: doctor replay {argument(shown)}{extra}"
    )


def _from_here(path: Path) -> str:
    """Return a path as it is typed: from the working folder, where it lies below that."""
    from pathlib import Path as Folder

    try:
        return str(path.relative_to(Folder.cwd()))
    except (ValueError, OSError):
        return str(path)


def warn_once(recorder: Any, error: BaseException) -> None:
    """Warn that a recorder had to stop; a second error of the same one is not told."""
    if recorder in _warned:
        return
    _warned.add(recorder)
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename.rpartition('/')[2]}:{frames[-1].lineno}" if frames else "?"
    reason = clean(f"{type(error).__name__}: {error}", 300)
    warn(f"the flight recorder stopped, training goes on: {reason} ({where})")


def warn(message: str) -> None:
    """Warn, also where warnings are made errors: training must not end of it."""
    try:
        warnings.warn(f"divergence_doctor: {message}", RuntimeWarning, stacklevel=2)
    except RuntimeWarning:
        tell(message)
