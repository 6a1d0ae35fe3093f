"""How is a large tensor gone through? By compiled loops, which let go of the interpreter meanwhile.

NumPy takes a dozen calls for what is one loop here, and several of them keep the interpreter to
themselves, so that two threads of them are no quicker than one. Small tensors do without: Numba is
imported, and the loops compiled (once per machine, then kept in a cache), for the first large one.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: Elements from which on a tensor is large; a model with such tensors is worth Numba's import.
LARGE: Final = 262_144
#: Elements per chunk: 1 MiB of float32. What is done in Python per chunk is a tenth of the whole.
CHUNK_SIZE: Final = 262_144
#: Elements from which on the loops, once they are there, are quicker than NumPy.
_WORTH: Final = 8_193


class Kernels(NamedTuple):
    """The compiled loops.

    Attributes:
        largest: takes the bits of float32 numbers, uint32 of shape (n,); returns those of the
            largest without its sign: more than ``0x7F7FFFFF`` where one is NaN or Inf.
        binades: takes bits and adds to bins, int64 of shape (4, 512): how many numbers hold each
            sign and biased exponent, to be summed over the first axis.
        extremes: takes bits; returns the bits of the smallest and the largest number, none of which
            may be NaN.
        moments: takes float32 numbers; returns their sum and the sum of their squares in float64.
    """

    largest: Callable[[NDArray[np.uint32]], int]
    binades: Callable[[NDArray[np.uint32], NDArray[np.int64]], None]
    extremes: Callable[[NDArray[np.uint32]], tuple[int, int]]
    moments: Callable[[NDArray[np.float32]], tuple[float, float]]


def kernels(size: int) -> Kernels | None:
    """Return the compiled loops for a tensor of so many elements; None where NumPy is to do.

    Once a large tensor has been there, they serve smaller ones as well.
    """
    if size >= LARGE or (size >= _WORTH and _load.cache_info().currsize):
        return _load()
    return None


@cache
def _load() -> Kernels | None:
    try:
        from numba import njit
    except ImportError:
        # Numba lags behind new releases of Python and NumPy; nothing but time is lost without it.
        return None
    try:
        return _compiled(njit, cache=True)
    except RuntimeError:
        # No folder can be written to that would keep the compiled loops for the next run.
        return _compiled(njit, cache=False)


def _compiled(njit: Any, *, cache: bool) -> Kernels:
    quick = njit(nogil=True, cache=cache, boundscheck=False)
    # The order of a sum is free; NaN and Inf keep their meaning.
    summing = njit(nogil=True, cache=cache, boundscheck=False, fastmath={"reassoc", "contract"})
    return Kernels(quick(_largest), quick(_binades), quick(_extremes), summing(_moments))


def _largest(bits: NDArray[np.uint32]) -> Any:
    largest = np.int32(0)
    signed = bits.view(np.int32)
    for i in range(signed.size):
        largest = max(largest, signed[i] & np.int32(0x7FFFFFFF))
    return largest


def _binades(bits: NDArray[np.uint32], bins: NDArray[np.int64]) -> None:
    # Four tables: an addition to a bin would wait for the one before it.
    whole = bits.size - bits.size % 4
    for i in range(0, whole, 4):
        bins[0, bits[i] >> 23] += 1
        bins[1, bits[i + 1] >> 23] += 1
        bins[2, bits[i + 2] >> 23] += 1
        bins[3, bits[i + 3] >> 23] += 1
    for i in range(whole, bits.size):
        bins[0, bits[i] >> 23] += 1


def _extremes(bits: NDArray[np.uint32]) -> tuple[Any, Any]:
    # As whole numbers in the order of the floats: those with a sign the other way round.
    low, high = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    signed = bits.view(np.int32)
    for i in range(signed.size):
        key = signed[i] ^ ((signed[i] >> np.int32(31)) & np.int32(0x7FFFFFFF))
        low = min(low, key)
        high = max(high, key)
    return (
        low ^ ((low >> np.int32(31)) & np.int32(0x7FFFFFFF)),
        high ^ ((high >> np.int32(31)) & np.int32(0x7FFFFFFF)),
    )


def _moments(values: NDArray[np.float32]) -> tuple[float, float]:
    total, squares = 0.0, 0.0
    for i in range(values.size):
        wide = np.float64(values[i])
        total += wide
        squares += wide * wide
    return total, squares
