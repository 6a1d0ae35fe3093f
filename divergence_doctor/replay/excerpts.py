"""What do the samples to blame look like? A small picture of each, or its first values.

The batch itself does not travel with a report; these few values do, so that a reader sees the
black image or the empty row. Apart from single cells they are the only values of the batch that a
trace keeps unasked, and :mod:`divergence_doctor.trace.redaction` takes them out again.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from divergence_doctor.batches import Batch
    from divergence_doctor.trace import TraceBuilder

#: Samples that are kept at most, and arrays of each: what a page can show.
SAMPLES: Final = 8
ARRAYS: Final = 6
#: Values kept of an array that is no picture.
VALUES: Final = 64
#: Longest side of a picture, in pixels: a larger one is thinned out, every k-th pixel kept.
SIDE: Final = 48
#: A grid is looked at as a picture when both of its sides have at least this many pixels.
_LEAST_SIDE: Final = 8
#: Level of a pixel that is NaN or Inf.
BAD: Final = -1


def keep(batches: Sequence[Batch], samples: Sequence[int], builder: TraceBuilder) -> None:
    """Add the table ``excerpts``: what the samples to blame hold, of every array of their batch.

    Args:
        batches: the batches that were replayed.
        samples: those of the failing step's batch that are to blame.
        builder: the trace so far.
    """
    steps = builder.rows("steps")
    if not steps or not batches:
        return
    index = int(steps[-1]["batch"])
    batch = batches[index % len(batches)]
    roles = {row["name"]: row["role"] for row in builder.rows("batch")}
    arrays = [
        (name, array)
        for name, array in batch.arrays.items()
        if array.ndim and len(array) == batch.samples and array.dtype.kind in "biuf"
    ]
    for sample in samples[:SAMPLES]:
        for name, array in arrays[:ARRAYS] if sample < batch.samples else ():
            builder.add(
                "excerpts",
                batch=index,
                sample=sample,
                name=name,
                role=roles.get(name, ""),
                dtype=array.dtype.name,
                shape="x".join(str(side) for side in array.shape[1:]),
                **excerpt(array[sample]),
            )


def excerpt(values: NDArray[Any]) -> dict[str, Any]:
    """Return what is kept of one array of one sample: columns of the table ``excerpts``.

    Args:
        values: numbers of any shape; those of shape (height, width) or (height, width, channels)
            with 1, 3 or 4 channels are kept as a picture when they are large enough.
    """
    picture = _grid(values)
    if picture is None:
        first = values.reshape(-1)[:VALUES].astype(np.float64)
        return {
            "size": values.size,
            "kept": len(first),
            "values": json.dumps([_strict(value) for value in first.tolist()]),
        }
    levels, low, high = _levels(picture.astype(np.float64))
    return {
        "size": values.size,
        "kept": levels.size,
        "height": levels.shape[0],
        "width": levels.shape[1],
        "channels": levels.shape[2],
        "low": low,
        "high": high,
        "values": json.dumps(levels.reshape(-1).tolist(), separators=(",", ":")),
    }


def _grid(values: NDArray[Any]) -> NDArray[Any] | None:
    """Return values as a grid of shape (height, width, 1 or 3), thinned out; None for no picture.

    Where a cell that is not finite falls between the kept ones, the one kept beside it is made so.
    """
    grid = values[..., None] if values.ndim == 2 else values
    if grid.ndim != 3 or min(grid.shape[:2]) < _LEAST_SIDE or grid.shape[2] not in {1, 3, 4}:
        return None
    grid = grid[:, :, :3] if grid.shape[2] == 4 else grid
    every = math.ceil(max(grid.shape[:2]) / SIDE)
    thin = grid[::every, ::every].astype(np.float64)
    for at in np.argwhere(~np.isfinite(grid.astype(np.float64))):
        thin[at[0] // every, at[1] // every, at[2]] = math.nan
    return np.asarray(thin)


def _levels(grid: NDArray[np.float64]) -> tuple[NDArray[np.int64], float, float]:
    """Return levels from 0 to 255, -1 for what is not finite, and what 0 and 255 stand for."""
    finite = np.isfinite(grid)
    if not finite.any():
        return np.full(grid.shape, BAD), math.nan, math.nan
    low, high = float(grid[finite].min()), float(grid[finite].max())
    # Halved, so that the span of the largest numbers does not overflow.
    span = high / 2 - low / 2
    share = (np.where(finite, grid, low) / 2 - low / 2) / span if span > 0 else np.zeros(grid.shape)
    levels = np.rint(255 * np.clip(share, 0.0, 1.0)).astype(np.int64)
    return np.where(finite, levels, BAD), low, high


def _strict(value: float) -> float | str:
    """Return a number as strict JSON can hold it."""
    if math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
