"""Which bundles are there to stay? The newest few of each worker; nobody else's are touched.

What goes is renamed first: from then on no reader takes it for a bundle, whatever happens to the
process that removes it. Everything here is done as far as it can be, and never an error.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from divergence_doctor.bundle._filesystem import sync_folder
from divergence_doctor.bundle._manifest import REASON
from divergence_doctor.bundle._names import STAMP, TRASH, Name, parse, parse_partial

if TYPE_CHECKING:
    from pathlib import Path

    from divergence_doctor.bundle._filesystem import FileSystem

#: Younger than this, what another process left unfinished may still be written: its process id
#: says nothing where it runs in another container.
_SURELY_OVER: Final = timedelta(hours=1)
_DEEPEST: Final = 4

#: Folders that this process left unfinished, by name: those it need not wait for.
_given_up: set[str] = set()


def give_up(fs: FileSystem, partial: Path) -> bool:
    """Leave an unfinished folder for ``salvage`` if it says why the run died; else remove it.

    Returns:
        Whether it was left.
    """
    _given_up.add(partial.name)
    if _says_why(partial):
        return True
    remove(fs, partial)
    return False


def sweep(fs: FileSystem, root: Path, ours: Name, *, keep: int) -> None:
    """Remove what is older than the newest ``keep`` of this worker, and what it left behind.

    Args:
        fs: the file system.
        root: the folder of all bundles.
        ours: the bundle that was just written; it is one of those kept.
        keep: how many bundles, and how many unfinished ones, may stay.
    """
    with suppress(OSError):
        names = fs.listdir(root)
        trash = [name for name in names if _is_trash_of(name, ours)]
        for name in _surplus(names, ours, keep):
            with suppress(OSError):
                fs.rename(root / name, root / f"{TRASH}{name}")
                trash.append(f"{TRASH}{name}")
        if trash:
            # After a loss of power, half of one must not have its old name again.
            sync_folder(fs, root)
        for name in [*trash, *_left_behind(root, names, ours, keep)]:
            remove(fs, root / name)


def _is_trash_of(name: str, ours: Name) -> bool:
    found = parse(name.removeprefix(TRASH)) if name.startswith(TRASH) else None
    return found is not None and found.kin(ours)


def remove(fs: FileSystem, path: Path, depth: int = 0) -> None:
    """Remove a file or folder, following no link; what cannot be removed is left."""
    with suppress(OSError):
        try:
            fs.unlink(path)
        except OSError:
            if depth > _DEEPEST:
                raise
            # A folder that is not empty; a link would be gone by now.
            if path.is_symlink():
                raise
            for name in fs.listdir(path):
                remove(fs, path / name, depth + 1)
            fs.unlink(path)


def _surplus(names: list[str], ours: Name, keep: int) -> list[str]:
    older = [
        (found.stamp, found.sequence, name)
        for name in names
        if (found := parse(name)) is not None and found.kin(ours) and found.older_than(ours)
    ]
    older.sort()
    return [name for _, _, name in older[: max(len(older) + 1 - keep, 0)]]


def _left_behind(root: Path, names: list[str], ours: Name, keep: int) -> list[str]:
    """Return the unfinished folders that nobody writes any more and nothing can be had from."""
    over = [
        (found.stamp, found.sequence, name)
        for name in names
        if (found := parse_partial(name)) is not None
        and found.kin(ours)
        and (name in _given_up or _is_over(found, ours))
    ]
    over.sort(reverse=True)
    told = [name for _, _, name in over if _says_why(root / name)]
    return [name for _, _, name in over if name not in told[: max(keep, 1)]]


def _says_why(partial: Path) -> bool:
    """Say whether something may be had from an unfinished folder."""
    try:
        return (partial / REASON).stat().st_size > 0
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _is_over(found: Name, ours: Name) -> bool:
    return _time(ours) - _time(found) > _SURELY_OVER and not _runs(found.pid)


def _time(name: Name) -> datetime:
    try:
        return datetime.strptime(name.stamp, STAMP).replace(tzinfo=UTC)
    except ValueError:
        return datetime.max.replace(tzinfo=UTC)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
