"""Which tensors do the statistics have to stand? Every dtype, with the extremes of each."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

NUMPY_FLOATS = ("float16", "float32", "float64")
ML_FLOATS = (
    "bfloat16",
    "float8_e3m4",
    "float8_e4m3",
    "float8_e4m3b11fnuz",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
)
FLOATS = (*NUMPY_FLOATS, *ML_FLOATS)
INTEGERS = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
)
COMPLEX = ("complex64", "complex128")
NUMBERS = (*FLOATS, *INTEGERS, *COMPLEX)


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the dtype of a name, one of ml_dtypes' included."""
    return np.dtype(getattr(ml_dtypes, name) if name in ML_FLOATS else name)


def tensors(names: tuple[str, ...] = NUMBERS, *, max_side: int = 5) -> st.SearchStrategy[Any]:
    """Return arrays of any bit pattern: NaN payloads, subnormals and both zeros among them."""
    return st.sampled_from(names).flatmap(lambda name: _of(dtype_of(name), max_side))


def _of(dtype: np.dtype[Any], max_side: int) -> st.SearchStrategy[Any]:
    shapes = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=max_side)
    if dtype == np.dtype(bool):
        return npst.arrays(bool, shapes)
    # Plain values give the everyday numbers and the named extremes, bit patterns all the others.
    width = dtype.itemsize // (2 if dtype.kind == "c" else 1)
    patterns = shapes.flatmap(lambda shape: npst.arrays(f"u{width}", _doubled(shape, dtype)))
    raw = patterns.map(lambda bits: bits.view(dtype).reshape(_halved(bits.shape, dtype)))
    if dtype.name in ML_FLOATS:
        return raw
    return st.one_of(raw, npst.arrays(dtype, shapes))


def _doubled(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    return (*shape, 2) if dtype.kind == "c" else shape


def _halved(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[int, ...]:
    return shape[:-1] if dtype.kind == "c" else shape


def numbers(array: np.ndarray[Any, Any]) -> list[float]:
    """Return every number of a tensor as a Python float, the parts of complex ones one by one."""
    with np.errstate(all="ignore"):
        if array.dtype.kind == "c":
            parts = np.stack([array.real, array.imag]).astype(np.float64)
            return [float(value) for value in parts.ravel()]
        return [float(value) for value in array.astype(np.float64).ravel()]


def smallest_normal(array: np.ndarray[Any, Any]) -> float:
    """Return the smallest normal number of a tensor's dtype, 0 for whole numbers."""
    name = array.dtype.name
    if name in ML_FLOATS:
        return float(ml_dtypes.finfo(array.dtype).smallest_normal)
    return float(np.finfo(array.dtype).smallest_normal) if array.dtype.kind in "fc" else 0.0


def twin(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return the statistics in exact arithmetic, the slow and obvious way."""
    values = numbers(array)
    finite = [value for value in values if math.isfinite(value)]
    tiny = smallest_normal(array)
    bins = [0] * 279
    for value in finite:
        if value:
            bins[min(max(math.frexp(value)[1] - 1, -150), 128) + 150] += 1
    exact = [Fraction(value) for value in finite]
    mean = sum(exact, Fraction(0)) / len(exact) if exact else None
    return {
        "size": len(values),
        "nan": sum(math.isnan(value) for value in values),
        "posinf": values.count(math.inf),
        "neginf": values.count(-math.inf),
        "zero": finite.count(0.0),
        "subnormal": sum(0 < abs(value) < tiny for value in finite),
        "negative": sum(value < 0 for value in finite),
        "min": min(finite, default=math.nan),
        "max": max(finite, default=math.nan),
        "absmax": max(map(abs, finite), default=math.nan),
        "mean": math.nan if mean is None else float(mean),
        "std": math.nan
        if mean is None
        else root(sum((value - mean) ** 2 for value in exact) / len(exact)),
        "l2": root(sum((value**2 for value in exact), Fraction(0))),
        "exponents": np.array(bins, dtype=np.uint32),
    }


def root(square: Fraction) -> float:
    """Return the square root of an exact number, wherever in float64's range the root lies."""
    if square == 0:
        return 0.0
    half = (square.numerator.bit_length() - square.denominator.bit_length()) // 2
    mantissa = math.sqrt(square / Fraction(4) ** half)
    try:
        return math.ldexp(mantissa, half)
    except OverflowError:
        return float(np.finfo(np.float64).max)
