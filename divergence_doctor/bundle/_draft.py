"""How does a bundle's folder grow? Each file written once, hashed as it goes, and on the disk."""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor.bundle._filesystem import FileSystem, sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from divergence_doctor.bundle._arrays import Sink

_BUFFER: Final = 256 << 10
RESERVE: Final = ".reserve"


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a bundle, as the manifest lists it."""

    name: str
    size: int
    sha256: str

    def told(self) -> dict[str, Any]:
        """Return the entry as the manifest holds it."""
        return {"name": self.name, "bytes": self.size, "sha256": self.sha256}


@final
class _Sink:
    """A file that is written from its beginning to its end; small writes are gathered."""

    def __init__(self, fs: FileSystem, descriptor: int) -> None:
        self._fs = fs
        self._descriptor = descriptor
        self._gathered = bytearray()
        self._hash = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self.size += view.nbytes
        if len(self._gathered) + view.nbytes > _BUFFER:
            self.flush()
        if view.nbytes > _BUFFER:
            self._out(view)
        else:
            self._gathered += view
        return view.nbytes

    def flush(self) -> None:
        gathered, self._gathered = self._gathered, bytearray()
        self._out(memoryview(gathered))

    def sha256(self) -> str:
        return self._hash.hexdigest()

    def _out(self, view: memoryview) -> None:
        while view.nbytes:
            view = view[self._fs.write(self._descriptor, view) :]


@final
class Draft:
    """A folder in the making.

    Args:
        fs: the file system.
        folder: the folder, empty.

    Attributes:
        files: what is in it, whole, in the order in which it was written.
        spoiled: something is in it that could not be removed; it must not become a bundle.
    """

    def __init__(self, fs: FileSystem, folder: Path) -> None:
        self._fs = fs
        self._subfolders: set[str] = set()
        self._reserved = False
        self.folder: Final = folder
        self.files: dict[str, Entry] = {}
        self.spoiled = False

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.files.values())

    def add(self, name: str, fill: Callable[[Sink], object], *, listed: bool = True) -> None:
        """Write one file and bring it to the disk; on any error nothing of it is left.

        Args:
            name: ``NAME`` or ``FOLDER/NAME``.
            fill: writes the file's bytes.
            listed: the manifest is to list it.

        Raises:
            OSError: it cannot be written.
        """
        subfolder = name.rpartition("/")[0]
        if subfolder and subfolder not in self._subfolders:
            self._fs.mkdir(self.folder / subfolder)
            self._subfolders.add(subfolder)
        path = self.folder / name
        descriptor = self._fs.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
        try:
            try:
                sink = _Sink(self._fs, descriptor)
                fill(sink)
                sink.flush()
                self._fs.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            self._unlink(path)
            raise
        if listed:
            self.files[name] = Entry(name, sink.size, sink.sha256())

    def drop(self, names: Collection[str]) -> int:
        """Remove files again, and return how many bytes that gave back.

        Raises:
            OSError: one is there to stay; then the folder must not become a bundle.
        """
        given = 0
        for name in names:
            entry = self.files.get(name)
            if entry is not None:
                self._unlink(self.folder / name)
                given += entry.size
                del self.files[name]
        return given

    def _unlink(self, path: Path) -> None:
        """Remove a file that must not be there when the folder becomes a bundle."""
        try:
            self._fs.unlink(path)
        except OSError:
            # Once more: a whole bundle hangs on it.
            try:
                self._fs.unlink(path)
            except OSError:
                self.spoiled = True
                raise

    def reserve(self, size: int) -> None:
        """Set so many bytes aside for the last and smallest files, where there is room."""
        try:
            self.add(RESERVE, lambda sink: sink.write(bytes(size)), listed=False)
            self._reserved = True
        except OSError:
            self._reserved = False

    def release(self) -> bool:
        """Give the reserved room back, and say whether there was any.

        Raises:
            OSError: the file is there to stay; then the folder must not become a bundle.
        """
        if not self._reserved:
            return False
        self._unlink(self.folder / RESERVE)
        self._reserved = False
        return True

    def tidy(self) -> None:
        """Remove folders that everything was dropped from.

        Raises:
            OSError: one is there to stay; then the folder must not become a bundle.
        """
        used = {name.partition("/")[0] for name in self.files}
        for subfolder in sorted(self._subfolders - used):
            self._unlink(self.folder / subfolder)
            self._subfolders.remove(subfolder)

    def sync(self) -> None:
        """Bring the names of all files to the disk.

        Raises:
            OSError: that failed, or something is there that should not be.
        """
        if self.spoiled:
            raise OSError(errno.EBUSY, "a file that was given up cannot be removed")
        for subfolder in sorted(self._subfolders):
            sync_folder(self._fs, self.folder / subfolder)
        sync_folder(self._fs, self.folder)
