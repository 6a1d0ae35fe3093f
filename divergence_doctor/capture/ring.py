"""Which batches are held? Those since the snapshot, and two before it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor.capture import batch as batches

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Steps before the snapshot that stay for what they show.
CONTEXT: Final = 2


@final
@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A step whose batch is held.

    Attributes:
        number: of the step, from 0.
        epoch: its epoch.
        data: its batch, as :func:`~divergence_doctor.capture.batch.keep` returns it.
    """

    number: int
    epoch: int
    data: Any


@final
class Ring:
    """The steps whose batches are held.

    Args:
        limit: bytes of batches since the snapshot.
    """

    def __init__(self, limit: int) -> None:
        self._limit: Final = limit
        self._steps: deque[Step] = deque()
        #: Bytes of those since the snapshot whose size is known, the others, and the size of one.
        self._bytes = 0
        self._unsized: list[Step] = []
        self._usual = 0

    def __iter__(self) -> Iterator[Step]:
        """Iterate over the steps that a bundle would hold."""
        return iter(self._steps)

    def __len__(self) -> int:
        """Return how many a bundle would hold."""
        return len(self._steps)

    def add(self, step: Step) -> None:
        """Hold the batch of the step that comes next."""
        self._steps.append(step)
        self._unsized.append(step)

    def take_back(self) -> None:
        """Let go of the step that came last: there was none."""
        if self._steps:
            step = self._steps.pop()
            self._unsized = [one for one in self._unsized if one is not step]

    @property
    def last(self) -> Step:
        """The step that came last."""
        return self._steps[-1]

    def room(self, most: int) -> int:
        """Return how many more batches like the last may be held, at most so many."""
        self._size_up()
        return max(0, min(most, (self._limit - self._bytes) // max(self._usual, 1)))

    def is_full(self) -> bool:
        """Say whether the batches since the snapshot are more than may be held."""
        self._size_up()
        return self._bytes > self._limit

    def shorten(self, now: int) -> None:
        """Let go of all but the last two before a step: the state is copied anew."""
        before = sum(step.number < now for step in self._steps)
        for _ in range(before - CONTEXT):
            self._steps.popleft()
        self._bytes = 0
        self._unsized = [step for step in self._steps if step.number >= now]

    def clear(self) -> None:
        """Let go of all."""
        self._steps.clear()
        self._unsized = []
        self._bytes = 0

    def _size_up(self) -> None:
        for step in self._unsized:
            self._usual = batches.size(step.data)
            self._bytes += self._usual
        self._unsized = []
