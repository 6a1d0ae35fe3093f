"""In which powers of two do the elements lie? From that follows the distance to any dtype's limits.

Bin i of the histogram counts the finite, non-zero elements with ``floor(log2(|x|)) == EXPONENT_MIN
+ i``. -149 is the exponent of float32's smallest subnormal and 127 that of its largest binade;
float64 elements beyond are counted in the first and the last bin, one step outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor.stats._chunk import scratch
from divergence_doctor.stats._statistic import Statistic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from divergence_doctor.stats._chunk import Chunk, NumberFormat

# The trace's schema holds the same figures; a test keeps the two alike.
EXPONENT_MIN: Final = -150
EXPONENT_MAX: Final = 128
EXPONENT_BINS: Final = EXPONENT_MAX - EXPONENT_MIN + 1
#: A bin is a uint32; what is more is counted as this many.
_FULL: Final = 2**32 - 1


@final
class Exponents(Statistic):
    """Histogram of base-2 exponents."""

    def __init__(self, form: NumberFormat) -> None:
        super().__init__(form)
        self._bins = np.zeros(2 * (form.bias + 1), dtype=np.int64)
        self._subnormal: NDArray[np.int64] | None = None
        self._size = 0

    def add(self, chunk: Chunk) -> None:
        """Add the chunk's exponents, and those of what is subnormal in float32 or float64."""
        self._size += chunk.values.size
        counted = chunk.binades
        self._bins += _counted(chunk.exponents, self._bins.size) if counted is None else counted
        if chunk.tiny > chunk.zeros:
            tiny = np.frexp(chunk.subnormals.astype(np.float64))[1] - 1
            places = np.maximum(tiny, EXPONENT_MIN) - EXPONENT_MIN
            bins = np.bincount(places, minlength=EXPONENT_BINS)
            self._subnormal = bins if self._subnormal is None else self._subnormal + bins

    def columns(self) -> dict[str, Any]:
        """Return the histogram, uint32 of shape (EXPONENT_BINS,); a bin holds at most 2**32 - 1."""
        bins = np.zeros(EXPONENT_BINS, dtype=np.int64)
        _fold(self._bins[1:-1], bins, first=1 - self.form.bias)
        if self._subnormal is not None:
            bins += self._subnormal
        if self._size > _FULL:
            bins = np.minimum(bins, _FULL)
        return {"exponents": bins.astype(np.uint32)}


def _counted(places: NDArray[Any], bins: int) -> NDArray[np.int64]:
    whole = scratch(np.intp, places.size, "places")
    np.copyto(whole, places)
    return np.bincount(whole, minlength=bins)


def _fold(counts: NDArray[np.int64], bins: NDArray[np.int64], *, first: int) -> None:
    """Add counts of the exponents from ``first`` up; what no bin is for goes to the end bins."""
    below = max(EXPONENT_MIN - first, 0)
    above = min(EXPONENT_MAX + 1 - first, counts.size)
    start = first + below - EXPONENT_MIN
    bins[start : start + above - below] = counts[below:above]
    if below:
        bins[0] += np.add.reduce(counts[:below])
        bins[-1] += np.add.reduce(counts[above:])
