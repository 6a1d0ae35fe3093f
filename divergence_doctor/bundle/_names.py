"""What is a bundle called? When, where, by whom: so that no two are ever called the same."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from datetime import datetime

PARTIAL: Final = ".partial"
TRASH: Final = ".trash-"
STAMP: Final = "%Y%m%dT%H%M%SZ"

_NAME: Final = re.compile(
    r"crash-(?P<stamp>\d{8}T\d{6}Z)-(?P<host>[A-Za-z0-9._-]+)-w(?P<worker>[A-Za-z0-9._]+)"
    r"-(?P<pid>\d+)-(?P<sequence>\d+)",
    re.ASCII,
)
_PARTIAL_NAME: Final = re.compile(
    rf"\.(?P<name>{_NAME.pattern})-(?P<token>[0-9a-f]+)\.partial", re.ASCII
)
#: A file name may have 255 bytes; what else is in it takes less than 100.
_LONGEST_HOST: Final = 64
_LONGEST_WORKER: Final = 32


@final
@dataclass(frozen=True, slots=True)
class Name:
    """The name of a bundle, taken apart.

    Attributes:
        stamp: when, in UTC.
        host: the machine, its unusual characters replaced.
        worker: which worker of the training, likewise.
        pid: process id.
        sequence: counted up by one process.
    """

    stamp: str
    host: str
    worker: str
    pid: int
    sequence: int

    @classmethod
    def make(cls, now: datetime, host: str, worker: int | str, *, pid: int, sequence: int) -> Name:
        """Make a name that any file system takes; ``now`` is in UTC."""
        return cls(
            now.strftime(STAMP),
            _safe(host, _LONGEST_HOST, dash="-") or "unknown",
            _safe(str(worker), _LONGEST_WORKER, dash="_") or "0",
            pid,
            sequence,
        )

    def __str__(self) -> str:
        return f"crash-{self.stamp}-{self.host}-w{self.worker}-{self.pid}-{self.sequence}"

    def partial(self) -> str:
        """Return a name for the folder in the making, never used before."""
        return f".{self}-{secrets.token_hex(6)}{PARTIAL}"

    def following(self) -> Name:
        """Return the name with the next sequence number."""
        return replace(self, sequence=self.sequence + 1)

    def kin(self, other: Name) -> bool:
        """Say whether both come from the same worker on the same machine."""
        return (self.host, self.worker) == (other.host, other.worker)

    def older_than(self, other: Name) -> bool:
        """Say whether this bundle is surely older: an earlier second, or earlier by one process."""
        if self.stamp != other.stamp:
            return self.stamp < other.stamp
        return self.pid == other.pid and self.sequence < other.sequence


def parse(name: str) -> Name | None:
    """Return what the final name of a bundle says; None for any other name."""
    return _taken_apart(_NAME.fullmatch(name))


def parse_partial(name: str) -> Name | None:
    """Return what the name of a folder in the making says; None for any other name."""
    return _taken_apart(_PARTIAL_NAME.fullmatch(name))


def _taken_apart(match: re.Match[str] | None) -> Name | None:
    if match is None:
        return None
    return Name(
        match["stamp"], match["host"], match["worker"], int(match["pid"]), int(match["sequence"])
    )


def _safe(text: str, longest: int, *, dash: str) -> str:
    """Return the text with nothing in it but ASCII letters, digits, dots, underscores (dashes)."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", text).replace("-", dash)
    return plain[:longest].strip(".")
