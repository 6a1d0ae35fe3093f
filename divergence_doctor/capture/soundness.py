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
_FLOAT32: Final = np.dtype(np.float32)
#: Bytes of an element in half precision.
_HALF: Final = 2


def fault(values: NDArray[Any], *, signed: bool = True) -> str:
    """Return what is wrong with the values of a variable; empty where nothing is.

    NumPy's warnings of overflow are the caller's to silence, once for all variables.

    Args:
        values: of a floating dtype and any shape.
        signed: it may hold numbers below zero.

    Returns:
        ``"NaN or Inf"`` or ``"below zero"``.
    """
    if not values.size:
        return ""
    if not _is_finite(values):
        return "NaN or Inf"
    if signed:
        return ""
    wide = values if values.dtype.kind == "f" else values.astype(np.float32)
    lowest = float(wide.min())
    if lowest >= 0:
        return ""
    return "below zero" if lowest < -_ROUNDING * (1 + float(wide.max())) else ""


def is_floating(dtype: str) -> bool:
    """Say whether a dtype of Keras is a floating one."""
    return "float" in dtype or "complex" in dtype


def _is_finite(values: NDArray[Any]) -> bool:
    if values.dtype == _FLOAT32 or values.dtype.kind in "fc":
        # Added up in half precision the sum would overflow long before an element does.
        wide = np.float32 if values.dtype.itemsize == _HALF else None
        total = np.add.reduce(values, axis=None, dtype=wide)
        return bool(np.isfinite(total)) or bool(np.isfinite(values).all())
    if values.dtype.name in _EXPONENTS:
        unsigned, mask = _EXPONENTS[values.dtype.name]
        return int((values.view(unsigned) & mask).max()) != mask
    return bool(np.isfinite(values.astype(np.float32)).all())
