"""How does an output folder come to be? Whole under its name, or not at all."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from divergence_doctor._clean import clean
from divergence_doctor.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

#: Characters of the folder's name that its temporary neighbour carries: a name may have 255 bytes.
_KEPT_OF_NAME: Final = 40
#: A folder that holds this was written by the doctor; ``--force`` replaces no other.
OURS: Final = "report.json"


@contextmanager
def whole_folder(target: Path, *, force: bool) -> Iterator[Path]:
    """Yield a folder to fill, which takes its final name only when everything is in it.

    Args:
        target: the folder's final path; its parent must exist.
        force: replace a folder that stands there already.

    Raises:
        OutputError: the target exists and ``force`` is not given, it is no folder or not one of
            the doctor's, or it cannot be written.
    """
    _check_free(target, force=force)
    partial = guarded(target, lambda: _beside(target))
    try:
        yield partial
        guarded(target, lambda: _swap(partial, target))
    except OutputError as error:
        # The user knows the folder by its final name only.
        raise OutputError(
            error.slug,
            error.message.replace(str(partial), clean(str(target))),
            why=error.why,
            fix=error.fix,
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def guarded(path: Path, write: Callable[[], T]) -> T:
    """Do some writing, and tell what the system says against it as an error for the user.

    Raises:
        OutputError: the writing failed.
    """
    try:
        return write()
    except OSError as error:
        raise OutputError(
            "cannot-write",
            f"{clean(str(path))} cannot be written",
            why=clean(error.strerror or str(error)).lower(),
            fix="choose another folder with --out, or make room on the disk",
        ) from error


def _check_free(target: Path, *, force: bool) -> None:
    there = guarded(target, lambda: target.is_symlink() or target.exists())
    if there and not force:
        raise OutputError(
            "output-exists",
            f"{clean(str(target))} exists already",
            why="an existing output is not overwritten",
            fix="give another folder with --out, or --force to replace it",
        )
    if there and not target.is_dir():
        raise OutputError(
            "output-not-a-folder",
            f"{clean(str(target))} is a file",
            why="everything is written into a folder",
            fix="give a folder with --out",
        )
    if there and any(target.iterdir()) and not (target / OURS).is_file():
        raise OutputError(
            "output-not-a-report",
            f"{clean(str(target))} is not replaced",
            why=f"it holds files but no {OURS}, so the doctor did not write it",
            fix="give another folder with --out",
        )


def _beside(target: Path) -> Path:
    name = f".{target.name[:_KEPT_OF_NAME]}."
    return Path(tempfile.mkdtemp(prefix=name, dir=target.absolute().parent))


def _swap(partial: Path, target: Path) -> None:
    partial.chmod(0o755)
    if not target.exists():
        partial.rename(target)
        return
    with tempfile.TemporaryDirectory(prefix=f"{partial.name}.", dir=partial.parent) as aside:
        former = Path(aside) / "former"
        target.rename(former)
        try:
            partial.rename(target)
        except OSError:
            former.rename(target)
            raise
