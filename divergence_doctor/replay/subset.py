"""What does the step come to on a part of its batch? Other rows left out, or copies in their place.

Only the batch of the failing step is cut. The batches before it in a sequence are run as they are,
so that the failing step starts from the same state.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

from divergence_doctor import _rows
from divergence_doctor.errors import DoctorError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from divergence_doctor.batches import Batch
    from divergence_doctor.replay.bench import Bench, Rerun


@final
class Subsets:
    """Runs the steps on parts of the failing step's batch; the same part is run once.

    Args:
        bench: the failing step.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._done: dict[tuple[Any, ...], Rerun | DoctorError] = {}

    @property
    def number(self) -> int:
        """Index of the failing step's batch in the sequence."""
        return self._bench.failing_step % len(self._bench.batches)

    @property
    def batch(self) -> Batch:
        """The failing step's batch."""
        return self._bench.batches[self.number]

    def known(
        self, kept: Sequence[int], *, copy: int | None = None, steps: int, watched: bool = False
    ) -> Rerun | None:
        """Return what such a run came to, where an earlier one tells; None where none does."""
        for (rows, filled, ran, seen), done in self._done.items():
            if rows != tuple(kept) or filled != copy or isinstance(done, DoctorError):
                continue
            enough = ran >= steps if done.finite else True
            if enough and (seen or not watched or done.finite):
                return done
        return None

    def run(
        self,
        kept: Sequence[int],
        *,
        copy: int | None = None,
        steps: int | None = None,
        watched: bool = False,
    ) -> Rerun:
        """Run the steps with some rows of the failing step's batch.

        Args:
            kept: indices along the first axis, each once, in the order of the batch.
            copy: row that takes the place of every other one, so that the batch keeps its size;
                by default the others are left out.
            steps: steps to run; by default those that a change at the point must survive.
            watched: let the fault tell its place.

        Raises:
            DoctorError: the model's step cannot run on such a batch.
        """
        count = steps or self._bench.enough
        known = self.known(kept, copy=copy, steps=count, watched=watched)
        if known is not None:
            return known
        key = (tuple(kept), copy, count, watched)
        if isinstance(refused := self._done.get(key), DoctorError):
            raise refused
        part = self.part(kept, copy=copy)
        try:
            rerun = self._bench.run(batches=self.instead(part), steps=count, watched=watched)
        except DoctorError as error:
            self._done[key] = error
            raise
        self._done[key] = rerun
        return rerun

    def part(self, kept: Sequence[int], *, copy: int | None = None) -> Batch:
        """Return those rows of the failing step's batch, with copies in place of the others."""
        if copy is None:
            return only(self.batch, kept)
        rows = np.full(self.batch.samples, copy, dtype=np.intp)
        rows[list(kept)] = list(kept)
        return only(self.batch, rows.tolist())

    def instead(self, batch: Batch) -> tuple[Batch, ...]:
        """Return the sequence with another batch for the failing step."""
        batches = list(self._bench.batches)
        batches[self.number] = batch
        return tuple(batches)

    def edited(self, change: Callable[[str, NDArray[Any]], NDArray[Any]]) -> tuple[Batch, ...]:
        """Return the sequence with ``change(name, array)`` applied in the failing step's batch."""
        arrays = {name: change(name, array) for name, array in self.batch.arrays.items()}
        return self.instead(replace(self.batch, arrays=arrays))


def only(batch: Batch, samples: Sequence[int]) -> Batch:
    """Return the batch with nothing but some rows; arrays that have none stay as they are."""
    return replace(batch, arrays=_rows.pick(batch.arrays, samples, batch.samples))


def without(batch: Batch, samples: Sequence[int]) -> Batch:
    """Return the batch without some rows."""
    return only(batch, np.setdiff1d(np.arange(batch.samples), samples).tolist())
