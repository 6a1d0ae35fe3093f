"""Which dtypes may stand in a bundle, and how is one stored that NumPy itself does not know?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: What NumPy's format holds as it is.
PLAIN: Final = frozenset(
    {
        "bool",
        *(f"{kind}int{bits}" for kind in ("", "u") for bits in (8, 16, 32, 64)),
        *("float16", "float32", "float64", "complex64", "complex128"),
    }
)
#: Dtypes of ml_dtypes, stored as unsigned integers of the same width: NumPy alone would write
#: them as opaque bytes that do not say what they are.
AS_INTEGERS: Final = {
    "bfloat16": "uint16",
    **dict.fromkeys(
        (
            *("float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn"),
            *("float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
            *("int2", "int4", "uint2", "uint4"),
        ),
        "uint8",
    ),
}


def stored_as(dtype: str) -> str:
    """Return the dtype of the file's array for a variable's dtype.

    Raises:
        ValueError: no bundle holds such a dtype.
    """
    if dtype in PLAIN:
        return dtype
    if dtype in AS_INTEGERS:
        return AS_INTEGERS[dtype]
    raise ValueError(f"dtype {dtype} cannot be stored")


def storable(dtype: str) -> bool:
    """Say whether a bundle can hold a variable of this dtype."""
    return dtype in PLAIN or dtype in AS_INTEGERS


def width(dtype: str) -> int:
    """Return the bytes of one element; 8, the most of any common one, for an unknown dtype."""
    name = AS_INTEGERS.get(dtype, dtype)
    return np.dtype(name).itemsize if name in PLAIN else 8


def to_stored(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return the array as it goes into the file: the same bits, in the machine's byte order.

    Raises:
        ValueError: the array is not of that dtype.
    """
    stored = stored_as(dtype)
    given = array.dtype.name
    if given not in {dtype, stored}:
        raise ValueError(f"the array is {given}, not {dtype}")
    if given != stored:
        return array.view(stored)
    return array if array.dtype.isnative else array.astype(stored)


def from_stored(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return a stored array in its true dtype: the same bits.

    Raises:
        ImportError: the dtype is one of ml_dtypes, and that is not installed.
    """
    if dtype in PLAIN:
        return array
    import ml_dtypes

    return array.view(getattr(ml_dtypes, dtype))
