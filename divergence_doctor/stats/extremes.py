"""How far do the finite elements reach?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, final

from divergence_doctor.stats._statistic import Statistic

if TYPE_CHECKING:
    from divergence_doctor.stats._chunk import Chunk, NumberFormat


@final
class Extremes(Statistic):
    """Smallest and largest element, and largest magnitude."""

    def __init__(self, form: NumberFormat) -> None:
        super().__init__(form)
        self._low, self._high = math.inf, -math.inf

    def add(self, chunk: Chunk) -> None:
        """Widen the range by the chunk's own."""
        low, high = chunk.range
        self._low = min(self._low, low)
        self._high = max(self._high, high)

    def columns(self) -> dict[str, Any]:
        """Return the range (float), all NaN when no element is finite."""
        if self._low > self._high:
            return dict.fromkeys(("min", "max", "absmax"), math.nan)
        largest = max(abs(self._low), abs(self._high))
        return {"min": self._low, "max": self._high, "absmax": largest}
