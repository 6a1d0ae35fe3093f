"""Where in a variable do its bad elements lie: one cell, one row, or everywhere?"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor.rules import may_be_negative

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Indices listed along each axis; how many there are is told in full.
_LISTED: Final = 16


def defects(
    owner: str, path: str, values: NDArray[Any], *, optimizer: str = ""
) -> Iterator[dict[str, Any]]:
    """Yield the rows of table ``defects`` for one variable as it was loaded.

    Args:
        owner: ``weights`` or ``slots``.
        path: path of the variable.
        values: what it holds, of any floating dtype and shape.
        optimizer: class of the optimizer that owns a slot, the one inside a loss scale.
    """
    wide = values if values.dtype.kind == "f" else values.astype(np.float32)
    kinds = [("nan", np.isnan(wide)), ("inf", np.isinf(wide))]
    if not may_be_negative(owner, path, optimizer):
        kinds.append(("negative", np.isfinite(wide) & (wide < 0)))
    for kind, bad in kinds:
        if bad.any():
            yield {"owner": owner, "variable": path, "kind": kind, **_places(bad)}


def _places(bad: NDArray[np.bool_]) -> dict[str, Any]:
    """Return how many elements of a mask are set, along which axes, and in what pattern."""
    where = [np.unique(indices) for indices in np.nonzero(bad)] if bad.ndim else []
    axes = [len(indices) for indices in where]
    count = int(np.count_nonzero(bad))
    first = np.unravel_index(int(np.argmax(bad)), bad.shape) if bad.ndim else ()
    return {
        "count": count,
        "size": bad.size,
        "pattern": _pattern(bad.shape, axes, count),
        "axes": json.dumps(axes),
        "indices": json.dumps([indices[:_LISTED].tolist() for indices in where]),
        "index": ",".join(str(int(place)) for place in first),
        "shape": "x".join(str(side) for side in bad.shape),
    }


def _pattern(shape: tuple[int, ...], axes: list[int], count: int) -> str:
    """Name the pattern: bad elements that fill the box of their indices make a row or a block."""
    if count == math.prod(shape):
        return "whole"
    if count == 1:
        return "cell"
    if count < math.prod(axes):
        return "scattered"
    full = [found == side for found, side in zip(axes, shape, strict=True)]
    if len(shape) > 1 and all(full[1:]):
        return "row"
    if len(shape) > 1 and all(full[:-1]):
        return "column"
    return "block"
