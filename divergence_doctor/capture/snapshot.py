"""What was the state before the failing step? One copy of it in host memory, of when it was sound.

The copy is made in place, into buffers that are kept: fresh memory would cost more than the copy.
It is made only after every variable was seen to be sound, so that the one copy there is never holds
a state that training could not go on from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from divergence_doctor.capture.generators import Generators
from divergence_doctor.capture.soundness import fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from divergence_doctor.capture.variables import Watched


@final
@dataclass(frozen=True, slots=True)
class Unsound:
    """A variable that holds what none can hold while training is alive."""

    path: str
    role: str
    what: str

    @property
    def trigger(self) -> str:
        """The trigger that it is, as a bundle's ``reason.json`` names it."""
        return "impossible-state" if self.what == "below zero" else "non-finite-state"

    def __str__(self) -> str:
        kind = {"optimizer": "optimizer slot", "other": "state"}.get(self.role, self.role)
        return f"{self.what} in {kind} {self.path}"


@final
class Snapshot:
    """A copy of the state from before one step.

    Attributes:
        step: the step it is from before; None where there is no copy yet.
        epoch: the epoch of that step.
        variables: what is kept, in the order of a bundle.
        generators: random state that is no variable.
    """

    def __init__(self) -> None:
        self.step: int | None = None
        self.epoch = 0
        self.variables: list[Watched] = []
        self.generators: Generators | None = None
        self._buffers: dict[int, NDArray[Any]] = {}
        #: Variables that held non-finite numbers before training began: a mask of -inf may.
        self._born: frozenset[int] | None = None

    def take(self, variables: Sequence[Watched], step: int, epoch: int = 0) -> Unsound | None:
        """Copy the state, where it is sound.

        Args:
            variables: as :func:`~divergence_doctor.capture.variables.watched` returns them.
            step: the step that comes next.
            epoch: its epoch.

        Returns:
            The first variable that is not sound; then the copy from before is left as it was. Where
            there is none the state is copied as it is: training begins with it.
        """
        views: list[NDArray[Any] | None] = []
        with np.errstate(over="ignore", invalid="ignore"):
            found = self._look(variables, views, whole=self.step is None)
        if found is not None and self.step is not None:
            return found
        # Not to be taken for a state while it is half written.
        self.step = None
        kept: dict[int, NDArray[Any]] = {}
        for index, one in enumerate(variables):
            held = views[index]
            values = one.read() if held is None else held
            views[index] = held = None
            kept[id(one.variable)] = self._copied(id(one.variable), values)
        self.variables = list(variables)
        self._buffers = kept
        self.generators = Generators.now()
        self.step, self.epoch = step, epoch
        return found

    def look(self, variables: Sequence[Watched]) -> Unsound | None:
        """Return the first variable that is not sound, and copy nothing."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._look(variables, [])

    def values(self, one: Watched) -> NDArray[Any]:
        """Return what a variable held, not to be changed."""
        return self._buffers[id(one.variable)]

    @property
    def bytes(self) -> int:
        """Size of the copy."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def forget(self) -> None:
        """Say that the copy is no state to roll forward from any more; its memory is kept."""
        self.step = None

    def _look(
        self, variables: Sequence[Watched], views: list[NDArray[Any] | None], *, whole: bool = False
    ) -> Unsound | None:
        unsound: dict[int, Unsound] = {}
        for one in variables:
            values = one.read()
            # What had to be fetched from a device is fetched again: two copies of the whole state
            # are more than there may be.
            views.append(values if one.on_host else None)
            what = fault(values, signed=one.signed) if one.checked else ""
            if not what or id(one.variable) in (self._born or ()):
                continue
            unsound[id(one.variable)] = Unsound(one.path, one.role, what)
            if self._born is not None and not whole:
                break
        if self._born is None:
            self._born = frozenset(unsound)
            return None
        return next(iter(unsound.values()), None)

    def _copied(self, key: int, values: NDArray[Any]) -> NDArray[Any]:
        place = self._buffers.get(key)
        if place is None or place.shape != values.shape or place.dtype != values.dtype:
            return np.array(values)
        np.copyto(place, values)
        return place
