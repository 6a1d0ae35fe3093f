"""Which sample of the batch is each row of a tensor? Followed through sorting and shuffling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor.replay._seams import view

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

#: Ops that pick rows along the first axis, that put them back, and that move them untold, the last
#: with the input that names the axis.
_GATHERS: Final = frozenset({"Gather", "GatherV2"})
_SCATTERS: Final = frozenset({"UnsortedSegmentSum", "ScatterNd"})
_MOVES: Final = {"RandomShuffle": 0, "ReverseV2": 1, "Roll": 2}


@final
class Samples:
    """Keeps track of the tensors that were computed from the batch, and of the order of their rows.

    Args:
        count: samples in the batch.
        leaves: identities of the batch's own arrays.
    """

    def __init__(self, count: int, leaves: Iterable[int]) -> None:
        self._count = count
        self._known = set(leaves)
        #: Tensors with their rows in another order: which sample each row is; None where untold.
        self._order: dict[int, NDArray[np.intp] | None] = {}

    def __contains__(self, key: object) -> bool:
        """Say whether a tensor was computed from the batch."""
        return key in self._known

    def add(self, key: int, *, by_sample: bool = True) -> None:
        """Take in one array of the batch; its rows are its samples, unless it is told apart."""
        self._known.add(key)
        if not by_sample:
            self._order[key] = None

    def same(self, old: int, new: int) -> None:
        """Note that a tensor is another one seen anew."""
        if old in self._known:
            self._known.add(new)
        if old in self._order:
            self._order[new] = self._order[old]

    def follow(
        self, kind: str, ins: tuple[int, ...], inputs: Sequence[Any], outs: tuple[int, ...]
    ) -> None:
        """Take in one op."""
        if self._known.isdisjoint(ins):
            return
        self._known.update(outs)
        if self._order or kind in _GATHERS or kind in _MOVES:
            self._reorder(kind, ins, inputs, outs)

    def rows(self, values: NDArray[Any], bad: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
        """Return which rows hold bad elements; None where the values have no axis of samples.

        Args:
            values: the values.
            bad: a mask of the same shape.
        """
        if values.ndim == 0 or self._count < 1 or len(values) != self._count:
            return None
        found: NDArray[np.bool_] = np.asarray(bad.reshape(len(bad), -1).any(axis=1))
        return found

    def put_back(self, rows: NDArray[np.bool_] | None, key: int) -> NDArray[np.bool_] | None:
        """Return which samples those rows of a tensor are; None where that cannot be told."""
        if rows is None or key not in self._order:
            return rows
        order = self._order[key]
        if order is None:
            return None
        samples = np.zeros_like(rows)
        samples[order[rows]] = True
        return samples

    def moved(self, keys: Iterable[int]) -> int:
        """Return the first of some tensors whose rows are not in the order of the batch, or -1."""
        return next((key for key in keys if key in self._order), -1)

    def _reorder(
        self, kind: str, ins: tuple[int, ...], inputs: Sequence[Any], outs: tuple[int, ...]
    ) -> None:
        by_rows = [
            key
            for key, tensor in zip(ins, inputs, strict=True)
            if key in self._known and tensor.shape.rank and tensor.shape[0] == self._count
        ]
        if not by_rows:
            return
        if by_rows[0] == ins[0] and (kind in _MOVES or kind in _GATHERS or kind in _SCATTERS):
            told, order = self._moved_by(kind, ins[0], inputs)
        else:
            told, order = self._agreed(by_rows)
        if told:
            for out in outs:
                self._order[out] = order

    def _moved_by(
        self, kind: str, key: int, inputs: Sequence[Any]
    ) -> tuple[bool, NDArray[np.intp] | None]:
        """Return whether the rows stand in another order after an op that moves them, and which."""
        before = self._order.get(key)
        if kind in _MOVES:
            axes = np.atleast_1d(view(inputs[_MOVES[kind]])) if _MOVES[kind] else np.zeros(1)
            along = (axes % inputs[0].shape.rank == 0).any()
            return bool(along) or key in self._order, None if along else before
        indices = np.asarray(view(inputs[1]))
        if kind in _SCATTERS:
            back = before is not None and np.array_equal(indices, before)
            return not back, None
        across = int(view(inputs[2])) if kind == "GatherV2" else 0
        if across != 0:
            return key in self._order, before
        if indices.ndim != 1 or len(indices) != self._count:
            return True, None
        if key in self._order:
            return True, None if before is None else before[indices]
        return True, indices.astype(np.intp)

    def _agreed(self, by_rows: Sequence[int]) -> tuple[bool, NDArray[np.intp] | None]:
        """Return whether any input is out of order, and the order if they all share one."""
        orders = [self._order.get(key) for key in by_rows]
        if not any(key in self._order for key in by_rows):
            return False, None
        first = orders[0]
        alike = first is not None and all(
            order is not None and np.array_equal(order, first) for order in orders
        )
        return True, first if alike else None
