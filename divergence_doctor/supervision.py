"""How does work that may crash, hang or eat the memory run? In a child process that is watched.

The child writes where it is into a small file, over and over in place, so that even a segmentation
fault leaves behind how far it had come. Nothing is pickled: the child is fed with JSON and answers
with files.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NoReturn, final

from divergence_doctor._clean import clean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

How = Literal["finished", "signal", "time", "memory"]

#: Seconds between two looks at the child.
_TICK: Final = 0.05
#: Bytes of the place file: one record of a fixed size, written whole each time.
_RECORD: Final = 512
#: prctl(2): the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where a child has come to: a step (or -1), a phase, and a layer or trial."""

    step: int = -1
    phase: str = "starting"
    detail: str = ""

    def __str__(self) -> str:
        step = f"step {self.step}, " if self.step >= 0 else ""
        return f"{step}{self.phase}" + (f" of {self.detail}" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a child ended.

    Attributes:
        how: finished by itself, or ended by a signal, the time limit or the memory limit.
        status: its exit status; negative for the number of a signal.
        place: where it had come to.
        peak: largest resident memory seen, in bytes.
    """

    how: How
    status: int
    place: Place
    peak: int

    @property
    def sentence(self) -> str:
        """Say how it ended, in words."""
        if self.how == "signal":
            name = signal.Signals(-self.status).name if -self.status in set(signal.Signals) else "?"
            return f"the replay was ended by {name} at {self.place}"
        words = {"time": "its time limit", "memory": "its memory limit"}
        return f"the replay hit {words.get(self.how, 'no limit')} at {self.place}"


@final
class PlaceFile:
    """Writes (in the child) and reads (in the parent) where the child is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def write(self, step: int, phase: str, detail: str) -> None:
        """Overwrite the record; cheap enough for every call of every layer."""
        if self._file is None:
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        text = json.dumps([step, phase, detail[:200]])[: _RECORD - 1]
        os.pwrite(self._file, text.encode().ljust(_RECORD)[:_RECORD], 0)

    def read(self) -> Place:
        """Return the last whole record; "starting" when there is none."""
        try:
            step, phase, detail = json.loads(self._path.read_bytes().decode())
            return Place(int(step), clean(str(phase)), clean(str(detail)))
        except (OSError, ValueError):
            return Place()


def supervise(
    module: str,
    arguments: Sequence[str],
    *,
    place: PlaceFile,
    log: Path,
    environment: Mapping[str, str],
    time_limit: float,
    memory_limit: int,
    on_tick: Callable[[Place], None],
) -> Ended:
    """Run ``python -m module arguments`` as a child and watch it until it ends.

    Args:
        module: module to run.
        arguments: its arguments.
        place: where the child says how far it is.
        log: file that takes its standard output and error.
        environment: the child's whole environment.
        time_limit: seconds after which it is killed.
        memory_limit: resident bytes above which it is killed.
        on_tick: called about twenty times a second with the child's place.

    Raises:
        KeyboardInterrupt: Ctrl-C; the child and what it started are gone by then.
    """
    started = time.monotonic()
    peak = 0
    how: How = "finished"
    with log.open("wb") as output:
        child = subprocess.Popen(  # noqa: S603 - our own module, no shell
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
        try:
            while child.poll() is None:
                peak = max(peak, resident(child.pid))
                if peak > memory_limit:
                    how = "memory"
                elif time.monotonic() - started > time_limit:
                    how = "time"
                if how != "finished":
                    _kill(child)
                    break
                on_tick(place.read())
                time.sleep(_TICK)
            status = child.wait()
        except BaseException:
            _kill(child)
            child.wait()
            raise
    if how == "finished" and status < 0:
        # The kernel's own out-of-memory killer sends SIGKILL; nobody else here does.
        how = "memory" if status == -signal.SIGKILL else "signal"
    return Ended(how, status, place.read(), peak)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and whatever it started: it leads a process group of its own."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        child.kill()


def leave(status: int) -> NoReturn:
    """End this process at once, all that it said written.

    TensorFlow takes most of a second to take itself down, and somebody waits for the verdict.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def end_with(parent: int) -> None:
    """Have this process killed when the one that started it ends, however that ends (on Linux).

    Args:
        parent: process id of the one that started it.
    """
    import ctypes

    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    # It may have ended before that was asked for.
    if os.getppid() != parent:
        sys.exit(1)


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def default_memory_limit() -> int:
    """Return nine tenths of the machine's memory, in bytes."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 1 << 62
    return int(total * 0.9)
