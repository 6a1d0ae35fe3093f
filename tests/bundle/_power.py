"""A disk that loses its power: what was not brought to it may be there, or not, or half.

Every call is made on the real file system, and on a model of the disk beside it. The model knows,
for each file, the bytes of its last ``fsync``, and for each folder, the names of its own last
``fsync`` and what was done to them since. Of that, any part may have come to the disk in time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.bundle._faults import Counting

if TYPE_CHECKING:
    import random
    from pathlib import Path


class PowerCutError(BaseException):
    """The machine is off: nothing catches this, and no call works any more."""


@dataclass(eq=False)
class File:
    """A file: its bytes, and those that are surely on the disk."""

    now: bytearray = field(default_factory=bytearray)
    disk: bytes = b""

    def settle(self) -> None:
        """Bring everything to the disk."""
        self.disk = bytes(self.now)


@dataclass(eq=False)
class Folder:
    """A folder: its names, those surely on the disk, and what was done since."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    disk: dict[str, File | Folder] = field(default_factory=dict)
    since: list[tuple[str, str, File | Folder]] = field(default_factory=list)

    def settle(self) -> None:
        """Bring the names, though not what they stand for, to the disk."""
        self.disk, self.since = dict(self.now), []

    def settle_all(self) -> None:
        """Bring everything in it to the disk."""
        self.settle()
        for node in self.now.values():
            node.settle_all() if isinstance(node, Folder) else node.settle()

    def put(self, name: str, node: File | Folder) -> None:
        """Give something a name."""
        self.now[name] = node
        self.since.append(("", name, node))

    def move(self, name: str, other: str) -> None:
        """Give it another name, or (``""``) none."""
        node = self.now.pop(name)
        if other:
            self.now[other] = node
        self.since.append((name, other, node))


class Power(Counting):
    """The power goes before the call after the n-th (from 0)."""

    def __init__(self, root: Path, number: int | None = None) -> None:
        super().__init__()
        self.root = root
        self.number = number
        self.disk = Folder()
        self.opened: dict[int, File | Folder] = {}

    def cut_after(self, number: int) -> None:
        """Count from here."""
        self.number = number
        self.calls.clear()

    def before(self, call: str) -> None:  # noqa: ARG002 - of any call
        if self.number is not None and len(self.calls) > self.number:
            raise PowerCutError

    def after(self, call: str, *arguments) -> None:
        """Do the same to the model."""
        if call == "write":
            descriptor, data, count = arguments
            self.opened[descriptor].now += bytes(data[:count])
        elif call == "fsync":
            self.opened[arguments[0]].settle()
        elif call == "open":
            path, _, descriptor = arguments
            self.opened[descriptor] = self._open(path)
        elif call == "mkdir":
            folder, name = self._at(arguments[0])
            folder.put(name, Folder())
        elif call in {"unlink", "rename"}:
            folder, name = self._at(arguments[0])
            folder.move(name, arguments[1].name if call == "rename" else "")

    def _at(self, path: Path) -> tuple[Folder, str]:
        *folders, name = path.relative_to(self.root).parts
        found = self.disk
        for part in folders:
            found = found.now[part]
        return found, name

    def _open(self, path: Path) -> File | Folder:
        if path == self.root:
            return self.disk
        folder, name = self._at(path)
        if name not in folder.now:
            folder.put(name, File())
        return folder.now[name]


def switch_on(folder: Folder, path: Path, generator: random.Random) -> None:
    """Make a real folder of what the disk may hold now."""
    path.mkdir()
    names = dict(folder.disk)
    for name, other, node in folder.since:
        if generator.random() < 0.5:
            continue
        if names.get(name) is node:
            del names[name]
        if other:
            names[other] = node
    for name, node in names.items():
        if isinstance(node, Folder):
            switch_on(node, path / name, generator)
            continue
        # Its length may have come to the disk without its bytes.
        lost = bytes(len(node.now) - len(node.disk))
        held = generator.choice((node.disk, node.disk + lost, bytes(node.now)))
        (path / name).write_bytes(held)
