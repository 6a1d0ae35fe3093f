"""Is every element finite? Asked of the result of every op, so it must cost next to nothing."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor.stats._chunk import (
    CHUNK_SIZE,
    UNTHREADED,
    as_float,
    is_ml_dtype,
    number_format,
    pieces,
)
from divergence_doctor.stats._compiled import kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

#: 16-bit floats by name: NaN and Inf are the patterns from here upwards, the sign bit aside.
_FIRST_BAD: Final = {"float16": 0x7C00, "bfloat16": 0x7F80}
_SIGN: Final = 0x8000
#: Bits of the float32 infinity.
_INFINITE: Final = 0x7F800000
#: More than the norm of what float32 squares to 0: 8,192 numbers of 3.7e-23 at most.
_TINY: Final = 1e-20


def all_finite(array: NDArray[Any]) -> bool:
    """Say whether a tensor holds neither NaN nor Inf; a complex one, in either part.

    Args:
        array: a tensor of any shape and memory layout, of booleans, integers, floats (those of
            ml_dtypes included) or complex numbers. An empty one is finite.

    Raises:
        TypeError: the array holds no numbers.
    """
    return bound(array) is not None


def bound(array: NDArray[Any]) -> float | None:
    """Return a magnitude that no element of a tensor exceeds; None unless all are finite.

    It comes with the look at the elements: it is the largest magnitude itself for some, the norm
    for others, and infinity where neither is at hand.

    Args:
        array: what :func:`all_finite` takes.

    Raises:
        TypeError: the array holds no numbers.
    """
    return _test(array.dtype)(array)


def extent(array: NDArray[Any]) -> tuple[float, float] | None:
    """Return the smallest and the largest element; None unless there are some and all are finite.

    Args:
        array: a tensor of real floats, those of ml_dtypes included.
    """
    loops = kernels(array.size) if array.dtype == np.float32 else None
    if loops is not None and array.flags.c_contiguous:
        low, high = map(as_float, loops.extremes(array.reshape(-1).view(np.uint32)))
    elif array.size:
        low, high = float(array.min()), float(array.max())
    else:
        return None
    # In the order of the bits NaN lies outside the infinities, and NumPy passes it on.
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


@cache
def _test(dtype: np.dtype[Any]) -> Callable[[NDArray[Any]], float | None]:
    """Return the quickest test for a dtype."""
    number_format(dtype)  # refuses what holds no numbers
    # A float16 in foreign byte order is no np.float16, and vdot reads it as what it is.
    if dtype.kind in "fc" and not is_ml_dtype(dtype) and dtype != np.float16:
        return _by_norm
    if dtype.kind in "biu":
        return lambda _: math.inf
    if dtype.name in _FIRST_BAD:
        first_bad = _FIRST_BAD[dtype.name]
        return lambda array: _by_pattern(array, first_bad)
    patterns = np.arange(256, dtype=np.uint8).view(dtype)
    finite = np.isfinite(patterns.astype(np.float32))
    return lambda array: math.inf if finite[array.view(np.uint8)].all() else None


def _by_norm(array: NDArray[Any]) -> float | None:
    # NaN and Inf poison the sum of squares, and unlike a ufunc vdot raises no warning. A sum that
    # overflowed is no proof: then every element is looked at.
    if array.size > UNTHREADED:
        loops = kernels(array.size) if array.dtype == np.float32 else None
        if loops is not None and array.flags.c_contiguous:
            largest = loops.largest(array.reshape(-1).view(np.uint32))
            return as_float(largest) if largest < _INFINITE else None
        return _largest_of(map(_by_extremes, pieces(array, CHUNK_SIZE)))
    total = np.vdot(array, array).real
    if math.isfinite(total):
        # Rounded sums of squares may come out a little short, and those of tiny numbers as 0.
        return math.sqrt(total) * 1.001 + _TINY
    return math.inf if np.isfinite(array).all() else None


def _largest_of(bounds: Iterable[float | None]) -> float | None:
    largest = 0.0
    for found in bounds:
        if found is None:
            return None
        largest = max(largest, found)
    return largest


def _by_extremes(piece: NDArray[Any]) -> float | None:
    # Both pass NaN on; and they do no sums, which subnormal numbers would slow down tenfold.
    if piece.dtype.kind == "c":
        piece = np.ascontiguousarray(piece).view(piece.real.dtype)
    high, low = float(np.maximum.reduce(piece)), float(np.minimum.reduce(piece))
    return math.hypot(low, high) if math.isfinite(high) and math.isfinite(low) else None


def _by_pattern(array: NDArray[Any], first_bad: int) -> float | None:
    if array.size == 0:
        return 0.0
    # As signed integers the negative numbers drop out; as unsigned ones they are the largest.
    positive = np.maximum.reduce(array.view(np.int16), axis=None)
    if not (
        positive < first_bad
        and np.maximum.reduce(array.view(np.uint16), axis=None) < first_bad + _SIGN
    ):
        return None
    return math.inf
