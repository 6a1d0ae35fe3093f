"""Which part of each array of a batch is one sample? Rows, and for a ragged array runs of rows.

A ragged array lies in two: ``NAME/values`` holds the rows of all samples one after the other, and
``NAME/row_splits`` says where each sample begins and the last one ends: sample i is
``values[row_splits[i]:row_splits[i + 1]]``. They are the ``values`` and ``row_splits`` of a
``tf.RaggedTensor``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

VALUES: Final = "/values"
SPLITS: Final = "/row_splits"


def ragged(arrays: Mapping[str, NDArray[Any]]) -> tuple[str, ...]:
    """Return the names of the ragged arrays, without ``/values`` and ``/row_splits``."""
    bare = [name.removesuffix(SPLITS) for name in arrays if name.endswith(SPLITS)]
    return tuple(name for name in bare if name + VALUES in arrays)


def splits_of(name: str, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any] | None:
    """Return the row splits of the values of a ragged array; None for any other array."""
    bare = name.removesuffix(VALUES)
    return arrays[bare + SPLITS] if name != bare and bare in ragged(arrays) else None


def fault(values: NDArray[Any], splits: NDArray[Any]) -> str:
    """Return why these cannot be the two halves of a ragged array; empty where they can."""
    if splits.ndim != 1 or splits.dtype.kind not in "iu" or not len(splits):
        return f"row_splits must be one axis of whole numbers, not {splits.dtype}{splits.shape}"
    if not values.ndim:
        return "values is a single number"
    if splits[0] != 0 or splits[-1] != len(values) or (np.diff(splits.astype(np.int64)) < 0).any():
        return (
            f"row_splits must rise from 0 to the {len(values)} rows of values; they go from "
            f"{splits[0]} to {splits[-1]}"
        )
    return ""


def count(name: str, array: NDArray[Any], arrays: Mapping[str, NDArray[Any]]) -> int:
    """Return how many samples an array holds; 0 for a single number."""
    splits = splits_of(name, arrays)
    if splits is not None or (
        name.endswith(SPLITS) and name.removesuffix(SPLITS) in ragged(arrays)
    ):
        return max(len(array if splits is None else splits) - 1, 0)
    return len(array) if array.ndim else 0


def pick(arrays: Mapping[str, NDArray[Any]], rows: Sequence[int], of: int) -> dict[str, Any]:
    """Return the arrays with nothing but some samples.

    Args:
        arrays: the arrays of a batch.
        rows: the samples to keep, in the order they are to stand in.
        of: samples in the batch; arrays that hold another number of them stay as they are.
    """
    index = np.asarray(rows, dtype=np.intp)
    picked: dict[str, Any] = {}
    for name, array in arrays.items():
        splits = splits_of(name, arrays)
        if count(name, array, arrays) != of or not array.ndim:
            picked[name] = array
        elif splits is not None:
            runs = [array[splits[row] : splits[row + 1]] for row in index]
            picked[name] = np.concatenate(runs) if runs else array[:0]
        elif name.endswith(SPLITS) and name.removesuffix(SPLITS) in ragged(arrays):
            lengths = np.diff(array)[index]
            picked[name] = np.concatenate([[0], np.cumsum(lengths)]).astype(array.dtype)
        else:
            picked[name] = array[index]
    return picked
