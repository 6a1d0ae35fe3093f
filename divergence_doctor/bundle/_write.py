"""How does a dying run leave a bundle? Whole under its name or not at all, most valuable first.

The folder is made under a name that no reader takes for a bundle. Each file is written once and
brought to the disk before the next is begun, the manifest last, and the folder then takes its
final name in one step. Where room is short, or a file cannot be written, the optimizer's state is
left out first, then the weights, then older batches; ``reason.json`` never.
"""

from __future__ import annotations

import errno
import os
import platform
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from divergence_doctor.bundle._draft import Draft
from divergence_doctor.bundle._dump import Dump
from divergence_doctor.bundle._filesystem import REAL, FileSystem, sync_folder
from divergence_doctor.bundle._names import Name
from divergence_doctor.bundle._sweep import give_up, sweep

if TYPE_CHECKING:
    from pathlib import Path

    from divergence_doctor.bundle._contents import Contents

_NAMES_TRIED: Final = 100


def write_bundle(  # noqa: PLR0913 - what may be said of a dump, each with its default
    root: Path,
    contents: Contents,
    *,
    worker: int | str = 0,
    sequence: int = 0,
    keep: int = 3,
    max_bytes: int | None = None,
    data: bool = True,
    fs: FileSystem = REAL,
    host: str | None = None,
    now: datetime | None = None,
) -> Path:
    """Write a crash bundle into a folder, and remove this worker's oldest ones.

    Args:
        root: folder of all bundles; made where it is missing.
        contents: what goes into it. Arrays given as functions are fetched one at a time.
        worker: which worker of the training this is.
        sequence: counted up by the caller; the next free one is taken where it is used already.
        keep: how many bundles of this worker on this machine may stay, this one among them.
        max_bytes: bound on the bundle's size; ``reason.json`` and the manifest are always written.
        data: write the batches, which are the user's data.
        fs: the file system.
        host: name of the machine, by default as the system gives it.
        now: the time, in UTC.

    Returns:
        The bundle's final path.

    Raises:
        OSError: nothing could be written, or not so much that it is a bundle; where something
            was, a note says in which folder it lies, for ``doctor salvage``.
    """
    name = Name.make(
        now or datetime.now(UTC),
        platform.node() if host is None else host,
        worker,
        pid=os.getpid(),
        sequence=sequence,
    )
    partial = _begin(fs, root, name)
    try:
        draft = Draft(fs, partial)
        Dump(draft, contents, max_bytes=max_bytes, data=data, free=_free(fs, root)).write(name)
        name = _publish(fs, draft, root, name)
    except BaseException as error:
        if give_up(fs, partial):
            error.add_note(f"What was written until then lies in {partial} (doctor salvage).")
        raise
    sweep(fs, root, name, keep=keep)
    return root / str(name)


def _begin(fs: FileSystem, root: Path, name: Name) -> Path:
    partial = root / name.partial()
    try:
        fs.mkdir(partial)
    except FileNotFoundError:
        _make(fs, root)
        fs.mkdir(partial)
    return partial


def _make(fs: FileSystem, folder: Path) -> None:
    """Make a folder and those above it."""
    try:
        fs.mkdir(folder)
    except FileExistsError:
        return
    except FileNotFoundError:
        if folder.parent == folder:
            raise
        _make(fs, folder.parent)
        fs.mkdir(folder)


def _free(fs: FileSystem, root: Path) -> int | None:
    try:
        return fs.statvfs(root)
    except OSError:
        # Then the disk itself will say when it is full.
        return None


def _publish(fs: FileSystem, draft: Draft, root: Path, name: Name) -> Name:
    """Give the folder its final name: from here on it is a bundle."""
    for _ in range(_NAMES_TRIED):
        try:
            fs.rename(draft.folder, root / str(name))
            break
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR}:
                raise
            name = name.following()
    else:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(root / str(name)))
    # It is whole and has its name; where this fails, taking it back would be no gain.
    with suppress(OSError):
        sync_folder(fs, root)
    return name
