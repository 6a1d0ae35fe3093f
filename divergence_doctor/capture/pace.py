"""How often may the state be copied? As often as the recorder's share of the time allows.

Every step earns the recorder a share of the time it took; what the recorder does between snapshots
is taken from it, and a snapshot is due once what was saved pays for one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Part of what a step earns that is always saved: on very short steps the recorder's own keeping
#: of accounts costs more than its share, and there must be snapshots all the same.
_ALWAYS: Final = 0.2
#: Part of a snapshot's cost that suffices at a moment that suits it.
_SUITED: Final = 0.5
#: No debt is larger than this many snapshots: one slow copy must not stop them for good.
_DEBT: Final = 2.0
#: What a snapshot costs in all, as a multiple of the time it takes: the steps after it find their
#: weights pushed out of the processor's caches.
_AFTER: Final = 2.0
#: What a later snapshot costs, as a part of what the first one did.
_LATER: Final = 0.2
#: Steps between snapshots, at most: all of them are rolled forward in a replay.
LONGEST: Final = 1_000


@final
class Pace:
    """Decides when the next snapshot is due, and sums up what the recorder cost.

    Args:
        budget: the recorder's share of the time of training.
        every: a fixed number of steps between snapshots instead.
        clock: seconds, rising.
    """

    def __init__(
        self,
        budget: float,
        *,
        every: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.clock: Final = clock
        self._budget = budget
        self._every = every
        self._saved = 0.0
        self._cost = 0.0
        self._since = 0
        self._intervals = 0
        self._snapshots = 0
        self._steps = 0.0
        self._own = 0.0

    def stepped(self, seconds: float, own: float, *, steps: int = 1) -> None:
        """Take note of steps that took ``seconds``, and of what the recorder did beside them."""
        earned = self._budget * seconds
        self._saved += max(earned - own, _ALWAYS * earned)
        self._since += steps
        self._steps += seconds
        self._own += own

    def paid(self, seconds: float) -> None:
        """Take note of a snapshot that took ``seconds``, or of one that did not come about."""
        self._own += seconds
        seconds *= _AFTER
        if self._snapshots:
            self._intervals += self._since
            self._cost = 0.5 * (self._cost + seconds)
            # What is left is let go of: the first step, which is traced, saves for dozens.
            self._saved = min(max(self._saved - seconds, -_DEBT * self._cost), 0.0)
        else:
            # The first one is made before any step, and its memory is asked for.
            self._cost = _LATER * seconds
        self._snapshots += 1
        self._since = 0

    def is_due(self, *, suited: bool = False) -> bool:
        """Say whether the next snapshot is due.

        Args:
            suited: this moment is a good one (an epoch begins), so that half the saving suffices.
        """
        if not self._snapshots or self._since >= LONGEST:
            return True
        if self._every is not None:
            return self._since >= self._every
        needed = self._cost * (_SUITED if suited else 1.0)
        return self._since > 0 and self._saved >= needed

    @property
    def is_fixed(self) -> bool:
        """Whether a fixed number of steps lies between snapshots."""
        return self._every is not None

    @property
    def interval(self) -> float:
        """Steps between snapshots, on the average; those since the last where there was one."""
        if self._snapshots < 2:
            return float(self._since)
        return self._intervals / (self._snapshots - 1)

    @property
    def overhead(self) -> float:
        """What the recorder did, as a share of the time that the steps took."""
        return self._own / self._steps if self._steps else 0.0
