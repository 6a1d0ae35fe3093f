"""How is a stranger's folder read so that nothing outside it is? By names that cannot lead out.

A folder that came from a ticket may hold links, pipes, devices and names of any bytes. Every file
is opened from the folder that holds it, links are refused by the system itself, and only regular
files are read.
"""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final, final

from divergence_doctor._clean import clean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
#: A named pipe would otherwise wait for somebody to write into it.
_FILE: Final = _READ | os.O_NONBLOCK
_FOLDER: Final = _READ | os.O_DIRECTORY


class NotPlainError(Exception):
    """A file is not there, or is no regular file; says which and why in a few words."""


@final
@dataclass(frozen=True, slots=True)
class Found:
    """One name in a bundle's folder.

    Attributes:
        name: relative to the folder.
        kind: ``file``, ``folder``, ``link`` or ``other``.
        size: bytes.
    """

    name: str
    kind: str
    size: int


@contextmanager
def opened(folder: Path, name: str) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file of a bundle, and give the stream and its size.

    Args:
        folder: the bundle.
        name: ``NAME`` or ``FOLDER/NAME``, as a manifest may list it.

    Raises:
        NotPlainError: it is missing, a link, or no regular file, or lies behind a link.
        OSError: the system cannot open it.
    """
    *folders, last = name.split("/")
    if last in {"", ".", ".."} or any(part in {"", ".", ".."} for part in folders):
        raise NotPlainError(f"{clean(name)} leads out of the bundle")
    descriptors = [os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    try:
        for part in folders:
            descriptors.append(_open(part, _FOLDER, descriptors[-1], name))
        descriptor = _open(last, _FILE, descriptors[-1], name)
    finally:
        for done in descriptors:
            os.close(done)
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NotPlainError(f"{clean(name)} is no regular file")
        yield stream, found.st_size


def _open(part: str, flags: int, parent: int, name: str) -> int:
    try:
        return os.open(part, flags, dir_fd=parent)
    except FileNotFoundError:
        raise NotPlainError(f"{clean(name)} is missing") from None
    except PermissionError:
        raise
    except OSError as error:
        # ELOOP and ENOTDIR for links, ENXIO for sockets.
        raise NotPlainError(f"{clean(name)} is a link, or lies behind one") from error


def read(folder: Path, name: str, limit: int) -> bytes:
    """Return the bytes of a file of a bundle.

    Raises:
        NotPlainError: it is no plain file, or larger than ``limit`` bytes.
        OSError: the system cannot read it.
    """
    with opened(folder, name) as (stream, size):
        if size > limit:
            raise NotPlainError(f"{clean(name)} takes {size:,} bytes; {limit:,} are allowed")
        # Python sets aside what it is asked for, whatever there is.
        return stream.read(size)


def walk(folder: Path, most: int) -> list[Found]:
    """Return what lies in a bundle's folder and its subfolders, in the order of the names.

    Links are told and not followed; of a folder below a subfolder only the name is told.

    Args:
        folder: the bundle.
        most: stop after so many names.
    """
    found: list[Found] = []
    for entry in _entries(folder, "", most):
        found.append(entry)
        if entry.kind == "folder" and len(found) < most:
            found.extend(_entries(folder / entry.name, f"{entry.name}/", most - len(found)))
    return sorted(found[:most], key=lambda one: one.name)


def _entries(folder: Path, prefix: str, most: int) -> list[Found]:
    found: list[Found] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if len(found) >= most:
                break
            status = entry.stat(follow_symlinks=False)
            found.append(Found(f"{prefix}{entry.name}", _kind(status.st_mode), status.st_size))
    return found


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "other"
