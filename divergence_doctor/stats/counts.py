"""How many elements are there, and how many are NaN, Inf, zero, subnormal or negative?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

from divergence_doctor.stats._chunk import count
from divergence_doctor.stats._statistic import Statistic

if TYPE_CHECKING:
    from divergence_doctor.stats._chunk import Chunk, NumberFormat


@final
class Counts(Statistic):
    """Counted by comparison; NaN and Inf only where the exponents say that there are some.

    ``subnormal`` goes by the tensor's own dtype: 1e-5 is subnormal in float16, not in float32.
    """

    def __init__(self, form: NumberFormat) -> None:
        super().__init__(form)
        self._size = self._nan = self._posinf = self._neginf = 0
        self._zero = self._subnormal = self._negative = 0

    def add(self, chunk: Chunk) -> None:
        """Count the chunk's elements of every kind."""
        values = chunk.values
        self._size += values.size
        negative = chunk.below_zero
        if chunk.spoilt:
            neginf = count(np.equal, values, -np.inf)
            self._neginf += neginf
            self._posinf += count(np.equal, values, np.inf)
            self._nan += int(np.count_nonzero(np.isnan(values)))
            negative -= neginf
        self._negative += negative
        self._zero += chunk.zeros
        first = self.form.first_normal
        below = chunk.tiny if first == 1 else count(np.less, chunk.exponents, first)
        self._subnormal += below - chunk.zeros

    def columns(self) -> dict[str, Any]:
        """Return the counts (int)."""
        return {
            "size": self._size,
            "nan": self._nan,
            "posinf": self._posinf,
            "neginf": self._neginf,
            "zero": self._zero,
            "subnormal": self._subnormal,
            "negative": self._negative,
        }
