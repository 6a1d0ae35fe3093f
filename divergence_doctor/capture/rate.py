"""At which learning rate, and at which loss scale, was a step taken?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor.capture import _seams as seams
from divergence_doctor.checkpoints import innermost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

#: A loss scale as small as this was halved 29 times from the 2^15 that Keras begins with: gradients
#: that overflow at 2^-14 are no gradients that a smaller scale would save.
SMALLEST: Final = 2.0**-14
#: Steps in a row that were skipped; the search for a scale takes a dozen.
SKIPPED: Final = 64


@final
class Rate:
    """Reads an optimizer's learning rate; what a schedule makes of it is worked out on demand.

    Args:
        optimizer: a Keras optimizer, built or not; None where there is none.
    """

    def __init__(self, optimizer: Any) -> None:
        self._read: Callable[[], NDArray[Any]] | None = None
        self._variable: Any = None
        self._schedule: Any = None
        self._last: float | None = None
        #: It may have changed since it was read.
        self._stale = True
        #: Whether an assignment is seen; where none is, it has to be read at every step.
        self._is_watched = False
        if optimizer is not None:
            self._variable, self._schedule = seams.rate(innermost(optimizer))
            self._read = None if self._variable is None else seams.reader(self._variable)

    def watch(self, tell: Callable[[], None]) -> None:
        """See every assignment from now on, so that it need not be read at every step.

        Args:
            tell: called at each: what comes next is a step at another rate.
        """

        def assigned(*, in_graph: bool) -> None:
            self._stale = True
            # A step that sets its own rate calls Python once, when it is traced.
            self._is_watched = self._is_watched and not in_graph
            tell()

        if self._variable is not None and self._schedule is None:
            self._is_watched = seams.watch_assign(self._variable, assigned)

    def release(self) -> None:
        """Watch no more."""
        if self._variable is not None:
            seams.unwatch_assign(self._variable)
        self._is_watched = False

    def read(self, *, afresh: bool) -> float | None:
        """Return what :meth:`values` makes the rate of the step that comes next from.

        Args:
            afresh: the state is being read as well.
        """
        if self._read is None:
            return None
        if self._last is None or afresh:
            self._stale = True
        elif self._schedule is not None:
            # The count of steps; a step that is skipped does not count, the next reading mends it.
            self._last += 1
            return self._last
        if self._stale or not self._is_watched:
            self._last, self._stale = float(self._read()), False
        return self._last

    @property
    def moves(self) -> bool:
        """Whether only reading it tells whether it has changed."""
        return self._read is not None and self._schedule is None and not self._is_watched

    def after_step(self) -> float | None:
        """Return what :meth:`read` would give one step later: a schedule's count has moved on."""
        if self._schedule is not None and self._last is not None:
            self._last += 1
        return self._last

    def values(self, read: Sequence[float | None]) -> list[float | None]:
        """Return the learning rates for what was read before some steps."""
        if self._schedule is None:
            return list(read)
        known: dict[float | None, float | None] = {None: None}
        for count in read:
            if count not in known:
                known[count] = _asked(self._schedule, count)
        return [known[count] for count in read]


def _asked(schedule: Any, count: float | None) -> float | None:
    from divergence_doctor.capture.losses import scalar

    try:
        return scalar(schedule(int(count or 0)))
    except Exception:  # noqa: BLE001 - a schedule of the user's own; the bundle does without
        return None


@final
class LossScale:
    """Follows the loss scale of a model's optimizer, and sees when no step can take effect.

    Args:
        optimizer: a Keras optimizer; None where there is none.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._read: Callable[[], NDArray[Any]] | None = None
        self._before = math.nan
        self.skipped = 0

    def read(self) -> float | None:
        """Return the scale of the step that comes next; None where none is applied."""
        if self._optimizer is None:
            return None
        if self._read is None:
            if not hasattr(self._optimizer, "initial_scale"):
                factor = getattr(self._optimizer, "loss_scale_factor", None)
                return None if factor is None else float(factor)
            if not hasattr(self._optimizer, "dynamic_scale"):
                return float(self._optimizer.initial_scale)
            self._read = seams.reader(self._optimizer.dynamic_scale)
        return float(self._read())

    @property
    def searched(self) -> bool:
        """Whether the scale is searched, so that steps are skipped."""
        return hasattr(self._optimizer, "initial_scale")

    def after_step(self, scale: float | None) -> str:
        """Return why training stands still, given the scale after a step; empty where it does not.

        A step that overflows is skipped, and halves the scale.
        """
        if scale is None or not self.searched:
            return ""
        before, self._before = self._before, scale
        if not scale < before:
            self.skipped = 0
            return ""
        halvings = round(math.log2(before / scale)) if scale > 0 else 1
        self.skipped += max(halvings, 1)
        if scale <= SMALLEST or self.skipped >= SKIPPED:
            return (
                f"the last {self.skipped} steps were skipped because their gradients overflowed, "
                f"down to a loss scale of {scale:.3g}"
            )
        return ""
