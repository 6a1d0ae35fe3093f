"""Where is the centre of the finite elements, how far do they scatter, and how long is the vector?

Chunks are summed in float64 and merged by Chan, Golub and LeVeque (1979), "Updating formulae and a
pairwise algorithm for computing sample variances". float64 elements whose squares would overflow or
vanish are first divided by a power of two, which is exact.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor.stats._chunk import UNTHREADED, scratch
from divergence_doctor.stats._statistic import Statistic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from divergence_doctor.stats._chunk import Chunk, NumberFormat

#: Squares of magnitudes within 2**-480 .. 2**480 neither overflow nor vanish in float64, and leave
#: room for the sum over 2**60 of them.
_SAFE_EXPONENT: Final = 480
#: Scale of what holds nothing but zeros: below that of any other number.
_NO_SCALE: Final = -2000
#: When less than this part of the sum of squares is scatter, the subtraction of the mean's part has
#: cancelled more than three digits, and the squares are summed again around the mean.
_CANCELLED: Final = 1e-3


@final
@dataclass(frozen=True, slots=True)
class _Moments:
    """Count, mean / 2**scale, and sum of squared deviations / 4**scale."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    scale: int = _NO_SCALE

    def at(self, scale: int) -> _Moments:
        """Return the same at a larger scale."""
        by = self.scale - scale
        if by == 0:
            return self
        mean, squares = math.ldexp(self.mean, by), math.ldexp(self.squares, 2 * by)
        return _Moments(self.count, mean, squares, scale)

    def merge(self, other: _Moments) -> _Moments:
        """Return the moments of both sets together."""
        scale = max(self.scale, other.scale)
        one, two = self.at(scale), other.at(scale)
        count = one.count + two.count
        away = two.mean - one.mean
        mean = one.mean + away * (two.count / count)
        squares = one.squares + two.squares + away * away * (one.count / count * two.count)
        return _Moments(count, mean, squares, scale)


@final
class Moments(Statistic):
    """Mean, population standard deviation and Euclidean norm, accumulated in float64.

    A norm beyond float64's range is given as the largest float64: no element is infinite.
    """

    def __init__(self, form: NumberFormat) -> None:
        super().__init__(form)
        self._all = _Moments()

    def add(self, chunk: Chunk) -> None:
        """Merge the chunk's moments into those of the tensor."""
        if chunk.finite.size:
            own = _of(chunk)
            self._all = self._all.merge(own) if self._all.count else own

    def columns(self) -> dict[str, Any]:
        """Return the moments (float): NaN, NaN and 0 when no element is finite."""
        every = self._all
        if every.count == 0:
            return {"mean": math.nan, "std": math.nan, "l2": 0.0}
        length = math.sqrt(every.squares + every.count * every.mean**2)
        return {
            "mean": _unscaled(every.mean, every.scale),
            "std": _unscaled(math.sqrt(every.squares / every.count), every.scale),
            "l2": _unscaled(length, every.scale),
        }


def _of(chunk: Chunk) -> _Moments:
    values = chunk.finite
    count = values.size
    low, high = chunk.range
    scale = _scale(max(-low, high))
    if low == high:
        return _Moments(count, math.ldexp(low, -scale), 0.0, scale)
    if chunk.sums is not None:
        mean = chunk.sums[0] / count
        squares = chunk.sums[1] - count * mean**2
        if squares >= _CANCELLED * chunk.sums[1]:
            return _Moments(count, mean, squares, scale)
    wide = values
    if values.dtype != np.float64:
        wide = scratch(np.float64, count, "wide")
        np.copyto(wide, values)
    elif scale:
        wide = np.ldexp(values, -scale)
    mean = float(np.add.reduce(wide)) / count
    total = _sum_of_squares(wide)
    squares = total - count * mean**2
    if squares < _CANCELLED * total:
        away = np.subtract(wide, mean, out=None if wide is values else wide)
        squares = _sum_of_squares(away)
    return _Moments(count, mean, squares, scale)


def _sum_of_squares(values: NDArray[np.float64]) -> float:
    whole = values.size // UNTHREADED * UNTHREADED
    rest = values[whole:]
    rows = values[:whole].reshape(-1, UNTHREADED)
    return math.fsum((*np.vecdot(rows, rows).tolist(), float(np.vdot(rest, rest))))


def _scale(largest: float) -> int:
    if largest == 0:
        return _NO_SCALE
    exponent = math.frexp(largest)[1]
    return exponent if abs(exponent) > _SAFE_EXPONENT else 0


def _unscaled(value: float, scale: int) -> float:
    try:
        return math.ldexp(value, scale)
    except OverflowError:
        return sys.float_info.max
