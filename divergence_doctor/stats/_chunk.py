"""How does a tensor reach the statistics? In chunks that stay in cache, each worked on only once.

Every dtype is widened, exactly, to float32 or float64 (64-bit integers are rounded), so that the
statistics know two layouts only. What several statistics need of a chunk is computed when the first
one asks for it.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor.stats._compiled import CHUNK_SIZE as COMPILED_CHUNK_SIZE
from divergence_doctor.stats._compiled import kernels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from divergence_doctor.stats._compiled import Kernels

#: Elements per chunk: 256 KiB of float32 stay in the second-level cache with what is made of them.
CHUNK_SIZE: Final = 65_536
#: Longest vector whose dot product OpenBLAS computes on the calling thread (up to 10,000). Beyond,
#: it wakes threads that spin, which on a busy machine made a summary thirty times slower.
UNTHREADED: Final = 8_192
#: Below this a cast costs less than a look into a table.
_TABLE_PAYS: Final = 4_096


@final
@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How the elements of a dtype are read.

    Attributes:
        dtype: dtype of the tensor.
        real: dtype of one number: that of the parts of a complex tensor, else ``dtype``.
        wide: float32 or float64, to which the numbers are widened.
        bits: unsigned integer dtype of the width of ``wide``.
        fraction_bits: fraction bits of ``wide``, an array of shape () and dtype ``bits``.
        bias: exponent bias of ``wide``.
        tabulated: widened by looking the bits up, which is quicker than the cast.
        first_normal: biased exponent, in ``wide``, of the smallest normal number of ``dtype``.
    """

    dtype: np.dtype[Any]
    real: np.dtype[Any]
    wide: np.dtype[Any]
    bits: np.dtype[Any]
    fraction_bits: NDArray[Any]
    bias: int
    tabulated: bool
    first_normal: int

    def widen(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Return a one-dimensional piece of the tensor in the native, contiguous ``wide``."""
        if self.dtype == self.wide and raw.flags.c_contiguous:
            return raw
        raw = np.ascontiguousarray(raw)
        if self.real is not self.dtype:
            raw = raw.view(self.real)
        if self.tabulated and raw.size >= _TABLE_PAYS:
            native = raw.astype(self.real.newbyteorder("="), copy=False)
            widened: NDArray[Any] = _widened(native.dtype)[native.view(f"u{native.itemsize}")]
            return widened
        # The cast of a signalling NaN raises the invalid flag; such are counted, not warned of.
        with np.errstate(all="ignore"):
            return raw.astype(self.wide, copy=False)


@cache
def number_format(dtype: np.dtype[Any]) -> NumberFormat:
    """Return how a dtype is read.

    Raises:
        TypeError: it holds no numbers, or numbers wider than float64.
    """
    real = np.empty(0, dtype).real.dtype if dtype.kind == "c" else dtype
    small = is_ml_dtype(real)
    if not small and (real.kind not in "biuf" or real.itemsize > np.dtype(np.float64).itemsize):
        raise TypeError(
            f"no statistics of dtype {dtype}: it is no boolean, integer, float or complex dtype of "
            "at most 64 bits a number"
        )
    single = small or real.itemsize <= np.dtype(np.int16).itemsize or real.str[1:] == "f4"
    wide = np.finfo(np.float32 if single else np.float64)
    bits = np.dtype(np.uint32 if single else np.uint64)
    bias = int(wide.maxexp) - 1
    return NumberFormat(
        dtype=dtype,
        real=real,
        wide=wide.dtype,
        bits=bits,
        fraction_bits=np.array(wide.nmant, dtype=bits),
        bias=bias,
        tabulated=real.name == "float16" or real.name.startswith("float8_"),
        first_normal=max(_min_exponent(real) + bias, 0) if _is_float(real) else 1,
    )


def is_ml_dtype(dtype: np.dtype[Any]) -> bool:
    """Say whether a dtype is one of ml_dtypes' (bfloat16, float8_e4m3fn, int4, ...)."""
    return dtype.type.__module__.partition(".")[0] == "ml_dtypes"


def _is_float(dtype: np.dtype[Any]) -> bool:
    # ml_dtypes' integers (int4, uint2) are all that is of kind V without being a float.
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def _min_exponent(real: np.dtype[Any]) -> int:
    if not is_ml_dtype(real):
        return int(np.finfo(real).minexp)
    # Nobody can hold such an array without ml_dtypes, which is not needed otherwise.
    import ml_dtypes

    smallest = float(ml_dtypes.finfo(real).smallest_normal)
    return int(np.frexp(smallest)[1]) - 1


@cache
def _widened(real: np.dtype[Any]) -> NDArray[np.float32]:
    """Return the value of every bit pattern of an 8- or 16-bit dtype."""
    patterns = np.arange(1 << (8 * real.itemsize), dtype=f"u{real.itemsize}")
    with np.errstate(all="ignore"):
        return patterns.view(real).astype(np.float32)


_memory = threading.local()


def scratch(dtype: type[Any], size: int, use: str) -> NDArray[Any]:
    """Return an uninitialised array of this thread's, in use until the next call for the same use.

    Fresh memory of a chunk's size costs more than what is computed in it: the kernel clears it.
    """
    try:
        pool: dict[tuple[type[Any], str], NDArray[Any]] = _memory.pool
    except AttributeError:
        pool = _memory.pool = {}
    held = pool.get((dtype, use))
    if held is None or held.size < size:
        held = pool[dtype, use] = np.empty(size, dtype)
    return held[:size]


@final
class Chunk:
    """A piece of a tensor, of at least one number.

    Args:
        values: shape (n,), native contiguous float32 or float64.
        form: the format they were widened by.
        loops: compiled loops for float32; None where NumPy is to do.

    Attributes:
        binades: how many numbers hold each biased exponent, either sign, shape (256,); None where
            they are still to be counted, from ``exponents``.
        spoilt: some numbers are NaN or Inf.
        zeros: how many numbers are zero of either sign.
        tiny: how many numbers are zero or subnormal, in ``values``' dtype.
        below_zero: how many numbers are less than 0, minus infinity among them.
        sums: the sum of the numbers and of their squares, in float64; None where they are still to
            be summed.
    """

    __slots__ = (
        "_exponents",
        "_finite",
        "_range",
        "below_zero",
        "binades",
        "form",
        "spoilt",
        "sums",
        "tiny",
        "values",
        "zeros",
    )

    def __init__(
        self, values: NDArray[Any], form: NumberFormat, loops: Kernels | None = None
    ) -> None:
        self.values = values
        self.form = form
        self._exponents: NDArray[Any] | None = None
        self._finite: NDArray[Any] | None = None
        self._range: tuple[float, float] | None = None
        self.binades: NDArray[np.int64] | None = None
        self.sums: tuple[float, float] | None = None
        if loops is None:
            self.spoilt = bool(np.maximum.reduce(self.exponents) > 2 * form.bias)
            self.tiny = count(np.equal, self.exponents, 0)
        else:
            self._scan(loops)
        self.zeros = count(np.equal, values, 0) if self.tiny else 0
        if loops is None or self.spoilt or self.tiny:
            self.below_zero = count(np.less, values, 0)

    def _scan(self, loops: Kernels) -> None:
        bits = self.values.view(np.uint32)
        bins = scratch(np.int64, 4 * 512, "binades").reshape(4, 512)
        bins.fill(0)
        loops.binades(bits, bins)
        by_sign = bins.sum(axis=0).reshape(2, 256)
        self.binades = by_sign[0] + by_sign[1]
        self.tiny, self.spoilt = self.binades.item(0), self.binades.item(-1) > 0
        self.below_zero = int(by_sign[1].sum())
        if not self.spoilt:
            low, high = loops.extremes(bits)
            self._range = (as_float(low), as_float(high))
            self.sums = loops.moments(self.values)

    @property
    def exponents(self) -> NDArray[Any]:
        """Biased exponent of each number, shape (n,), uint8 for float32 and uint16 for float64.

        0 for zeros and subnormals, the largest for NaN and Inf.
        """
        if self._exponents is None:
            self._exponents = _exponents(self.values, self.form)
        return self._exponents

    @property
    def finite(self) -> NDArray[Any]:
        """The finite numbers, in their order, in float32 or float64; may be empty."""
        if not self.spoilt:
            return self.values
        if self._finite is None:
            self._finite = self.values[np.isfinite(self.values)]
        return self._finite

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest finite number; (inf, -inf) when there is none."""
        if self._range is None:
            finite = self.finite
            self._range = (
                # The place of the minimum costs less than the minimum itself.
                (finite.item(finite.argmin()), finite.item(finite.argmax()))
                if finite.size
                else (np.inf, -np.inf)
            )
        return self._range

    @property
    def subnormals(self) -> NDArray[Any]:
        """The numbers that are subnormal in float32 or float64, whatever the tensor's dtype."""
        picked: NDArray[Any] = self.values[(self.exponents == 0) & (self.values != 0)]
        return picked


def as_float(bits: int) -> float:
    """Return the float32 of the given bits; a zero without its sign."""
    number: float = struct.unpack("<f", struct.pack("<i", bits))[0]
    return number + 0.0


def count(compare: np.ufunc, values: NDArray[Any], bound: float) -> int:
    """Return for how many numbers a comparison holds."""
    holds = scratch(np.bool_, values.size, "holds")
    return int(np.count_nonzero(compare(values, bound, out=holds)))


def _exponents(values: NDArray[Any], form: NumberFormat) -> NDArray[Any]:
    single = values.itemsize == np.dtype(np.uint32).itemsize
    shifted = scratch(np.uint32 if single else np.uint64, values.size, "shifted")
    np.right_shift(values.view(form.bits), form.fraction_bits, out=shifted)
    if single:
        # The cast to eight bits drops the sign.
        exponents = scratch(np.uint8, values.size, "exponents")
    else:
        np.bitwise_and(shifted, np.uint64(2 * form.bias + 1), out=shifted)
        exponents = scratch(np.uint16, values.size, "exponents")
    np.copyto(exponents, shifted, casting="unsafe")
    return exponents


def chunks(
    array: NDArray[Any], form: NumberFormat, minus: NDArray[Any] | None = None
) -> Iterator[Chunk]:
    """Yield the numbers of a tensor in the order of memory, each once; an empty one has none.

    Args:
        array: the tensor.
        form: how its dtype is read.
        minus: a tensor of the same shape, dtype (float32 or float64) and layout, to be taken from
            it piece by piece.
    """
    loops = kernels(array.size) if form.wide == np.float32 else None
    size = CHUNK_SIZE if loops is None else COMPILED_CHUNK_SIZE
    if minus is None:
        for raw in pieces(array, size):
            yield Chunk(form.widen(raw), form, loops)
        return
    for raw, other in zip(pieces(array, size), pieces(minus, size), strict=True):
        difference = scratch(form.wide.type, raw.size, "difference")
        yield Chunk(np.subtract(raw, other, out=difference), form, loops)


def pieces(array: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    """Yield one-dimensional pieces of at most ``size`` elements without copying the whole."""
    flags = array.flags
    if flags.c_contiguous or flags.f_contiguous:
        flat = (array if flags.c_contiguous else array.T).reshape(-1)
        for start in range(0, flat.size, size):
            yield flat[start : start + size]
    else:
        buffers: Any = np.nditer(
            array,
            flags=["external_loop", "buffered", "zerosize_ok"],
            order="K",
            buffersize=size,
        )
        yield from (piece for piece in buffers if piece.size)
