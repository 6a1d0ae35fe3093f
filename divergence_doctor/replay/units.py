"""Which units of a layer say nothing? Those at 0 for the whole batch, and values near 1.

Both are counted from the output alone, whatever function made it; what they mean hangs on the
layer's activation, which the reading half knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

#: At 1 - 2**-9 the slope of a sigmoid is 0.8 % of its steepest and that of tanh 0.4 %.
NEAR_ONE: Final = 1 - 2.0**-9
#: Places that are looked at first; most units have fired by then, and only the others are read on.
_FIRST: Final = 8


def units(values: NDArray[Any], row: Mapping[str, Any]) -> dict[str, int]:
    """Return the columns ``dead_units`` and ``near_one`` of table ``activations``.

    Args:
        values: what a layer put out, of shape (batch, ..., units).
        row: the statistics of it.
    """
    return {"dead_units": _dead(values, row), "near_one": _near_one(values, row)}


def _dead(values: NDArray[Any], row: Mapping[str, Any]) -> int:
    """Return how many units are 0 all over the batch; -1 for what no rectifier puts out."""
    if values.ndim < 2 or not values.size or not row["min"] >= 0 or _nonfinite(row):
        return -1
    count = values.shape[-1]
    if row["zero"] * count < values.size:
        return 0  # not enough zeros for a single one
    flat = values.reshape(-1, count)
    left = np.arange(count)
    start, places = 0, _FIRST
    while start < len(flat) and left.size:
        part = flat[start : start + places]
        part = part if left.size == count else part[:, left]
        left = left[~(part != 0).any(axis=0)]
        start, places = start + places, 2 * places
    return int(left.size)


def _near_one(values: NDArray[Any], row: Mapping[str, Any]) -> int:
    """Return how many values lie at 1 or -1, or near; -1 for what goes beyond."""
    if not row["absmax"] <= 1 or _nonfinite(row):
        return -1
    return int(np.count_nonzero(np.abs(values) >= NEAR_ONE)) if row["absmax"] >= NEAR_ONE else 0


def _nonfinite(row: Mapping[str, Any]) -> int:
    return int(row["nan"] + row["posinf"] + row["neginf"])
