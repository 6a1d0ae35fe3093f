"""Is every element finite? Asked of the result of every op, so it must cost next to nothing."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor.stats._chunk import UNTHREADED, is_ml_dtype, number_format, pieces

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
    if array.size <= UNTHREADED:
        total = np.vdot(array, array)
        return math.isfinite(total.real) or bool(np.isfinite(array).all())
    if not array.flags.c_contiguous:
        return all(_by_norm(piece) for piece in pieces(array, UNTHREADED))
    flat = array.reshape(-1)
    whole = flat.size // UNTHREADED * UNTHREADED
    rows = flat[:whole].reshape(-1, UNTHREADED)
    with np.errstate(all="ignore"):
        totals = np.isfinite(np.vecdot(rows, rows))
        if not totals.all() and not np.isfinite(rows[~totals]).all():
            return False
    return _by_norm(flat[whole:])


def _by_pattern(array: NDArray[Any], first_bad: int) -> bool:
    if array.size == 0:
        return True
    # As signed integers the negative numbers drop out; as unsigned ones they are the largest.
    positive = np.maximum.reduce(array.view(np.int16), axis=None)
    return bool(
        positive < first_bad
        and np.maximum.reduce(array.view(np.uint16), axis=None) < first_bad + _SIGN
    )
