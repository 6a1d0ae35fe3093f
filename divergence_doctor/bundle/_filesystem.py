"""Through which eight calls does the writer touch the disk? So that each can be made to fail.

The recorder writes while a training run dies, on a disk that may be full, gone or read-only. Tests
wrap this one object to count the calls, to fail the n-th of them and to kill the process after it.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

#: Bundles hold the user's data: nobody else may look.
FOLDER_MODE: Final = 0o700
FILE_MODE: Final = 0o600


class FileSystem:
    """The real file system. Every call raises ``OSError`` as the system gives it."""

    def open(self, path: Path, flags: int) -> int:
        """Return a descriptor; a file that is created is readable by its owner only."""
        return os.open(path, flags | os.O_CLOEXEC, FILE_MODE)

    def write(self, descriptor: int, data: memoryview) -> int:
        """Write some of the data, and return how many bytes."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Return when what was written is on the disk."""
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give a folder another name; a folder that holds something is never replaced."""
        os.rename(source, target)  # noqa: PTH104 - one call of the system, as it is

    def mkdir(self, path: Path) -> None:
        """Create a folder that only its owner may enter."""
        os.mkdir(path, FOLDER_MODE)  # noqa: PTH102 - likewise

    def unlink(self, path: Path) -> None:
        """Remove a file, a link (never what it points to) or an empty folder."""
        try:
            os.unlink(path)  # noqa: PTH108 - likewise
        except OSError as error:
            # What a system says of unlinking a folder: Linux the first, POSIX and macOS the second.
            if error.errno not in {errno.EISDIR, errno.EPERM}:
                raise
            os.rmdir(path)  # noqa: PTH106 - likewise

    def statvfs(self, path: Path) -> int:
        """Return how many bytes are free for this user on the disk that holds the path."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def listdir(self, path: Path) -> list[str]:
        """Return the names in a folder."""
        return os.listdir(path)  # noqa: PTH208 - likewise


REAL: Final = FileSystem()


def sync_folder(fs: FileSystem, path: Path) -> None:
    """Bring a folder's names to the disk, where the file system knows how to.

    Raises:
        OSError: it knows how to, and failed.
    """
    descriptor = fs.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fs.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems have no such call; nothing better can be done there.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}:
            raise
    finally:
        os.close(descriptor)
