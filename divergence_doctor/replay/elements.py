"""Which elements of an array are bad, where, and in which samples? NumPy only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

#: Sample indices listed for one event.
_SAMPLES = 256


def listed(samples: NDArray[np.bool_] | None) -> list[int]:
    """Return the samples to blame; none where all are, or none can be told."""
    if samples is None or samples.all():
        return []
    return [int(sample) for sample in np.flatnonzero(samples)[:_SAMPLES]]


def wide(values: NDArray[Any]) -> Any:
    """Return a dtype in which NumPy itself knows what is finite."""
    return values.dtype if values.dtype.kind in "fc" else np.float32


def count(arrays: Iterable[NDArray[Any]]) -> tuple[int, int, int]:
    """Return the number of NaN, +Inf and -Inf in some arrays, of complex ones in both parts."""
    nan = posinf = neginf = 0
    for array in arrays:
        parts = [array.real, array.imag] if array.dtype.kind == "c" else [array]
        for part in parts:
            known = part.astype(wide(part), copy=False)
            nan += int(np.isnan(known).sum())
            posinf += int(np.isposinf(known).sum())
            neginf += int(np.isneginf(known).sum())
    return nan, posinf, neginf


def has_nan(values: NDArray[Any]) -> bool:
    """Say whether an array holds NaN."""
    return bool(np.isnan(values.astype(wide(values), copy=False)).any())


def first_bad(values: NDArray[Any]) -> tuple[int, ...]:
    """Return the index of the first element that is not finite."""
    flat = ~np.isfinite(values.astype(wide(values), copy=False))
    return tuple(int(place) for place in np.unravel_index(int(np.argmax(flat)), values.shape))


def value_at(values: NDArray[Any], element: tuple[int, ...], shape: tuple[int, ...]) -> float:
    """Return the operand's value that belongs to an output element, by NumPy's broadcasting."""
    if values.size == 1:
        return float(np.real(values.reshape(-1)[0]))
    if values.ndim > len(shape):
        return float("nan")
    own = element[len(shape) - values.ndim :]
    sizes = shape[len(shape) - values.ndim :]
    if any(size not in (1, full) for size, full in zip(values.shape, sizes, strict=True)):
        return float("nan")
    place = tuple(0 if size == 1 else at for size, at in zip(values.shape, own, strict=True))
    return float(np.real(values[place]))
