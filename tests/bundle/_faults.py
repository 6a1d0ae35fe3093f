"""File systems that count their calls, fail at the n-th, or kill the process after it."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from divergence_doctor.bundle import FileSystem

if TYPE_CHECKING:
    from pathlib import Path

CALLS = ("open", "write", "fsync", "rename", "mkdir", "unlink", "statvfs", "listdir")


class Counting(FileSystem):
    """The real one; counts its calls and remembers them."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def before(self, call: str) -> None:
        """Be told of a call that is about to be made."""

    def after(self, call: str, *arguments: object) -> None:
        """Be told of a call that was made."""


def _counted(call: str):
    def counted(self: Counting, *arguments):
        self.calls.append(call)
        self.before(call)
        answer = getattr(FileSystem, call)(self, *arguments)
        self.after(call, *arguments, answer)
        return answer

    return counted


for _call in CALLS:
    setattr(Counting, _call, _counted(_call))


class Failing(Counting):
    """Fails at the n-th call (from 1), or from then on, as the system would."""

    def __init__(self, number: int, code: int, *, on: bool = False) -> None:
        super().__init__()
        self.number = number
        self.code = code
        self.on = on

    def before(self, call: str) -> None:  # noqa: ARG002 - of any call
        count = len(self.calls)
        if count == self.number or (self.on and count > self.number):
            raise OSError(self.code, os.strerror(self.code))

    @property
    def failed(self) -> bool:
        """Whether it came to that."""
        return len(self.calls) >= self.number


class Killing(Counting):
    """Kills its process, as the out-of-memory killer would, after the n-th call (from 1).

    Args:
        number: the call.
        told: descriptor of a pipe, for the name of every file that was brought to the disk.
    """

    def __init__(self, number: int, told: int) -> None:
        super().__init__()
        self.number = number
        self.told = told
        self.names: dict[int, Path] = {}

    def after(self, call: str, *arguments: object) -> None:
        """Tell of what was brought to the disk, and end where it is time."""
        if call == "open":
            self.names[arguments[-1]] = arguments[0]
        if call == "fsync":
            os.write(self.told, f"{self.names[arguments[0]]}\n".encode())
        if len(self.calls) == self.number:
            os.kill(os.getpid(), signal.SIGKILL)


class Dribbling(Counting):
    """Writes a few bytes at a time, as a system may."""

    def write(self, descriptor: int, data: memoryview) -> int:
        return super().write(descriptor, data[:1000])
