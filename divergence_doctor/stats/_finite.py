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
    from collections.abc import Callable

    from numpy.typing import NDArray

#: 16-bit floats by name: NaN and Inf are the patterns from here upwards, the sign bit aside.
_FIRST_BAD: Final = {"float16": 0x7C00, "bfloat16": 0x7F80}
_SIGN: Final = 0x8000


def all_finite(array: NDArray[Any]) -> bool:
    """Say whether a tensor holds neither NaN nor Inf; a complex one, in either part.

    Args:
        array: a tensor of any shape and memory layout, of booleans, integers, floats (those of
            ml_dtypes included) or complex numbers. An empty one is finite.

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
def _test(dtype: np.dtype[Any]) -> Callable[[NDArray[Any]], bool]:
    """Return the quickest test for a dtype."""
    number_format(dtype)  # refuses what holds no numbers
    # A float16 in foreign byte order is no np.float16, and vdot reads it as what it is.
    if dtype.kind in "fc" and not is_ml_dtype(dtype) and dtype != np.float16:
        return _by_norm
    if dtype.kind in "biu":
        return lambda _: True
    if dtype.name in _FIRST_BAD:
        first_bad = _FIRST_BAD[dtype.name]
        return lambda array: _by_pattern(array, first_bad)
    patterns = np.arange(256, dtype=np.uint8).view(dtype)
    finite = np.isfinite(patterns.astype(np.float32))
    return lambda array: bool(finite[array.view(np.uint8)].all())


def _by_norm(array: NDArray[Any]) -> bool:
    # NaN and Inf poison the sum of squares, and unlike a ufunc vdot raises no warning. A sum that
    # overflowed is no proof: then every element is looked at.
    if array.size > UNTHREADED:
        loops = kernels(array.size) if array.dtype == np.float32 else None
        if loops is not None and array.flags.c_contiguous:
            return loops.all_finite(array.reshape(-1).view(np.uint32))
        return all(_by_extremes(piece) for piece in pieces(array, CHUNK_SIZE))
    total = np.vdot(array, array)
    return math.isfinite(total.real) or bool(np.isfinite(array).all())


def _by_extremes(piece: NDArray[Any]) -> bool:
    # Both pass NaN on; and they do no sums, which subnormal numbers would slow down tenfold.
    if piece.dtype.kind == "c":
        piece = np.ascontiguousarray(piece).view(piece.real.dtype)
    return math.isfinite(np.maximum.reduce(piece)) and math.isfinite(np.minimum.reduce(piece))


def _by_pattern(array: NDArray[Any], first_bad: int) -> bool:
    if array.size == 0:
        return True
    # As signed integers the negative numbers drop out; as unsigned ones they are the largest.
    positive = np.maximum.reduce(array.view(np.int16), axis=None)
    return bool(
        positive < first_bad
        and np.maximum.reduce(array.view(np.uint16), axis=None) < first_bad + _SIGN
    )
