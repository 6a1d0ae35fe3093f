"""What is measured on one tensor? Every statistic of the open folder, in one pass over memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from divergence_doctor.stats._chunk import chunks, number_format
from divergence_doctor.stats._compiled import LARGE
from divergence_doctor.stats._finite import all_finite, bound, extent
from divergence_doctor.stats._statistic import Statistic, all_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LARGE", "Statistic", "all_finite", "bound", "extent", "summarize"]


def summarize(array: NDArray[Any], *, minus: NDArray[Any] | None = None) -> dict[str, Any]:
    """Return the statistics of one tensor, computed where nothing can overflow.

    A complex tensor is measured as its real and imaginary parts, interleaved: its ``size`` is twice
    the number of its elements. Whole numbers beyond 2**53 are rounded to float64.

    Args:
        array: a tensor of any shape and memory layout, of booleans, integers, floats (those of
            ml_dtypes included) or complex numbers. It is only read.
        minus: a tensor of the same shape; what is measured is the difference, in at least float32.

    Returns:
        Counts (int): ``size``, ``nan``, ``posinf``, ``neginf``, ``zero`` of either sign,
        ``subnormal`` by the tensor's own dtype, ``negative`` among the finite.
        Of the finite elements (float): ``min``, ``max``, ``mean``, ``std`` (population) and
        ``absmax``, all NaN when there is none, and ``l2``, which is 0 then.
        ``exponents`` (uint32 array, see :mod:`divergence_doctor.stats.exponents`). Further files in
        the folder add further columns.

    Raises:
        TypeError: the array holds no numbers (objects, strings, dates, records).
    """
    array = np.asarray(array)
    if minus is not None and not _alike(array, minus):
        wide = np.promote_types(np.float32, array.dtype if array.dtype.kind == "f" else np.float32)
        with np.errstate(all="ignore"):
            array, minus = np.subtract(array.astype(wide), minus.astype(wide)), None
    form = number_format(array.dtype)
    statistics = [kind(form) for kind in all_statistics()]
    # Comparing a signalling NaN raises the invalid flag; such are counted, not warned of.
    with np.errstate(all="ignore"):
        for chunk in chunks(array, form, minus):
            for statistic in statistics:
                statistic.add(chunk)
    columns: dict[str, Any] = {}
    for statistic in statistics:
        columns.update(statistic.columns())
    return columns


def _alike(array: NDArray[Any], other: NDArray[Any]) -> bool:
    """Say whether two tensors can be gone through piece by piece."""
    flags = array.flags.c_contiguous and other.flags.c_contiguous
    return flags and array.dtype == other.dtype and array.dtype in (np.float32, np.float64)
