"""Can a variable hold these numbers? Finite, and not below zero where a square or variance is kept.

Looked at again and again while training runs, so the first look is one sum: a sum is finite only
where every term is. An exact look follows where it is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Below zero by rounding, as a part of the largest element: a variance from the difference of two
#: means (synchronised batch normalisation) may be.
_ROUNDING: Final = 1e-6
#: Exponent bits of dtypes that NumPy adds up slowly or not at all: all set means Inf or NaN.
_EXPONENTS: Final = {"bfloat16": ("uint16", 0x7F80)}


def fault(values: NDArray[Any], *, signed: bool = True) -> str:
    """Return what is wrong with the values of a variable; empty where nothing is.

    Args:
        values: of any dtype and shape; what is no floating number is always sound.
        signed: it may hold numbers below zero.

    Returns:
        ``"NaN or Inf"`` or ``"below zero"``.
    """
    if not values.size or not is_floating(values.dtype):
        return ""
    if not _is_finite(values):
        return "NaN or Inf"
    if signed:
        return ""
    wide = values if values.dtype.kind == "f" else values.astype(np.float32)
    lowest = float(wide.min())
    return "below zero" if lowest < -_ROUNDING * (1 + float(wide.max())) else ""


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Say whether a dtype is a floating one, those of ``ml_dtypes`` included."""
    return dtype.kind in "fc" or "float" in dtype.name


def _is_finite(values: NDArray[Any]) -> bool:
    if values.dtype.name in _EXPONENTS:
        unsigned, mask = _EXPONENTS[values.dtype.name]
        return int((values.view(unsigned) & mask).max()) != mask
    if values.dtype.kind not in "fc":
        values = values.astype(np.float32)
    # Added up in half precision the sum would overflow long before an element does.
    wide = np.float32 if values.dtype == np.float16 else None
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduce(values, axis=None, dtype=wide)
    return bool(np.isfinite(total)) or bool(np.isfinite(values).all())
