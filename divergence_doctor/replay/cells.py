"""Which cell of a guilty row is to blame, where its input is? Named on evidence, proven by a run.

A cell is suspected for what it is (NaN, an index that cannot be looked up, the zero that was handed
to the logarithm, a value far outside its column), or found by halving a row of few cells. It is to
blame when the step lives with the column's median over the other rows in its place.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor.errors import DoctorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from divergence_doctor.replay.bench import Bench
    from divergence_doctor.replay.delta import Culprits
    from divergence_doctor.trace import TraceBuilder

#: With more suspected cells than this it is the row that is to blame, not a cell of it.
_MOST: Final = 16
#: Cells of a row up to which it is halved; each half costs a run.
_FEW: Final = 64
#: A cell this many times the median magnitude of its column and of its array lies far outside: the
#: threshold by which the rule `unscaled-input` calls a sample an outlier.
_FAR: Final = 100.0
#: What TensorFlow says of an index, and of a label, that is out of range.
_INDEX: Final = re.compile(r"= (-?\d+) is not in \[(\d+), (\d+)\)")
_LABEL: Final = re.compile(
    r"label value of (-?\d+) which is outside the valid range of \[(\d+), (\d+)\)"
)
#: Trials that put ordinary values in place of the cells that are not finite, or not in range.
_MENDING: Final = frozenset({"replace-values", "valid-labels", "valid-indices"})


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a guilty row.

    Attributes:
        array: name of the array.
        index: full index.
        value: its value.
        evidence: ``non-finite``, ``out-of-range``, ``fed-to-op``, ``outlier`` or ``halving``.
    """

    array: str
    index: tuple[int, ...]
    value: float
    evidence: str


def find(bench: Bench, culprits: Culprits, builder: TraceBuilder, *, until: float) -> list[Cell]:
    """Return the cells that are to blame in the rows that are; none where it is not a cell.

    Args:
        bench: the failing step.
        culprits: the rows that are to blame.
        builder: the trace so far: its events, its chain and its trials.
        until: time (of ``time.perf_counter``) after which no further run is started.
    """
    if culprits.outcome != "rows":
        return []
    return _Hunt(bench, culprits, builder, until).cells()


Places = list[tuple[str, tuple[int, ...]]]


@final
class _Hunt:
    def __init__(
        self, bench: Bench, culprits: Culprits, builder: TraceBuilder, until: float
    ) -> None:
        self._bench, self._builder, self._until = bench, builder, until
        self._rows = culprits.rows
        batch = bench.subsets.batch
        self._arrays = {
            name: array
            for name, array in batch.arrays.items()
            if array.dtype.kind in "biuf" and array.ndim and len(array) == batch.samples
        }

    def cells(self) -> list[Cell]:
        suspects: tuple[tuple[str, Callable[[], Places]], ...] = (
            ("non-finite", self._nonfinite),
            ("out-of-range", self._out_of_range),
            ("fed-to-op", self._fed_to_op),
            ("outlier", self._outliers),
        )
        for evidence, look in suspects:
            places = look()
            if 0 < len(places) <= _MOST:
                if self._already(evidence) or self._mends(places):
                    return self._told(places, evidence)
            elif places:
                return []
        place = self._halved() if len(self._rows) == 1 else None
        return [] if place is None else self._told([place], "halving")

    def _told(self, places: Places, evidence: str) -> list[Cell]:
        return [
            Cell(name, index, float(self._arrays[name][index]), evidence) for name, index in places
        ]

    # ------------------------------------------------------------------ the test

    def _mends(self, places: Places) -> bool:
        """Say whether the step lives with ordinary values in those cells."""
        if time.perf_counter() > self._until:
            return False

        def ordinary(name: str, values: NDArray[Any]) -> NDArray[Any]:
            mine = [index for array, index in places if array == name]
            changed = values.copy() if mine else values
            for index in mine:
                changed[index] = self._ordinary(name, index)
            return changed

        try:
            return self._bench.run(batches=self._bench.subsets.edited(ordinary)).finite
        except DoctorError:
            return False

    def _others(self, name: str) -> NDArray[Any]:
        return np.delete(self._arrays[name], list(self._rows), axis=0)

    def _ordinary(self, name: str, index: tuple[int, ...]) -> Any:
        """Return the (lower) median of a cell's column over the finite cells of the other rows."""
        others = self._others(name)
        column = others.reshape(len(others), -1)[:, self._flat(name, index)]
        known = (
            np.sort(column[np.isfinite(column)]) if column.dtype.kind == "f" else np.sort(column)
        )
        return known[(len(known) - 1) // 2] if len(known) else column.dtype.type(0)

    def _flat(self, name: str, index: tuple[int, ...]) -> int:
        """Return a cell's place in its flattened row."""
        shape = self._arrays[name].shape[1:]
        return int(np.ravel_multi_index(index[1:], shape)) if shape else 0

    def _already(self, evidence: str) -> bool:
        """Say whether a trial that mended just such cells has mended the step."""
        return evidence in {"non-finite", "out-of-range"} and any(
            trial["name"] in _MENDING and trial["outcome"] == "finite"
            for trial in self._builder.rows("trials")
        )

    # ------------------------------------------------------------------ the suspects

    def _where(self, name: str, bad: NDArray[np.bool_]) -> Places:
        """Return the cells of the guilty rows for which a mask over those rows holds."""
        return [
            (name, (self._rows[int(at[0])], *(int(place) for place in at[1:])))
            for at in np.argwhere(bad)[: _MOST + 1]
        ]

    def _each(self, bad: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> Iterable[tuple[str, Any]]:
        for name, array in self._arrays.items():
            yield name, bad(array[list(self._rows)])

    def _nonfinite(self) -> Places:
        floating = {name for name, array in self._arrays.items() if array.dtype.kind == "f"}
        return [
            place
            for name, bad in self._each(lambda rows: ~np.isfinite(rows))
            if name in floating
            for place in self._where(name, bad)
        ]

    def _out_of_range(self) -> Places:
        """Return the cells that the exception of the step speaks of."""
        raised = str(self._builder.rows("steps")[-1]["raised"])
        label = _LABEL.search(raised)
        found = label or _INDEX.search(raised)
        if found is None:
            return []
        low, high = int(found[2]), int(found[3])
        roles = {row["name"]: row["role"] for row in self._builder.rows("batch")}
        return [
            place
            for name, bad in self._each(lambda rows: (rows < low) | (rows >= high))
            if roles.get(name) == ("y" if label else "x")
            and (label is not None or self._arrays[name].dtype.kind in "iu")
            for place in self._where(name, bad)
        ]

    def _fed_to_op(self) -> Places:
        """Return the cells that hold what the chain of origin leads to, if to a cell."""
        chain = self._builder.rows("chain")
        leaf = chain[-1] if chain else {}
        name, value = leaf.get("name", ""), leaf.get("value", float("nan"))
        event = next((row for row in self._builder.rows("events") if row["primary"]), None)
        if leaf.get("what") != "batch" or name not in self._arrays or event is None:
            return []
        element = tuple(int(place) for place in str(event["element"]).split(",") if place)
        if not element or len(element) != self._arrays[name].ndim or np.isnan(value):
            return []
        same = self._arrays[name][list(self._rows)] == value
        # A row that holds nothing else is to blame as a row: a silent clip, a black image.
        return [] if same[0].size > 1 and same.all() else self._where(name, same)

    def _outliers(self) -> Places:
        places: Places = []
        for name, array in self._arrays.items():
            others = self._others(name)
            if not others.size or array.dtype.kind == "b":
                continue
            wide = others.astype(np.float64)
            size = np.where(np.isfinite(wide), np.abs(wide), 0.0)
            usual = np.maximum(np.median(size, axis=0), np.median(size))
            rows = np.abs(array[list(self._rows)].astype(np.float64))
            far = (rows > _FAR * usual) & (usual > 0)
            if 2 * int(far.sum()) <= max(far.size, 2):
                places += self._where(name, np.asarray(far))
        return places

    def _halved(self) -> tuple[str, tuple[int, ...]] | None:
        """Return the one cell of a row of few that mends the step, found by halving."""
        roles = {row["name"]: row["role"] for row in self._builder.rows("batch")}
        everywhere: Places = [
            place
            for name, all_of in self._each(lambda rows: np.ones(rows.shape, dtype=bool))
            if roles.get(name) == "x" and all_of.size <= _FEW
            for place in self._where_all(name, all_of)
        ]
        rest = everywhere
        if not 1 < len(rest) <= _FEW or not self._mends(rest):
            return None
        while len(rest) > 1:
            half = len(rest) // 2
            mending = [part for part in (rest[:half], rest[half:]) if self._mends(part)]
            # Where either half mends it is no one cell: the row is, and any change takes it away.
            if len(mending) != 1:
                return None
            rest = mending[0]
        return rest[0]

    def _where_all(self, name: str, cells: NDArray[np.bool_]) -> Places:
        return [
            (name, (self._rows[int(at[0])], *(int(place) for place in at[1:])))
            for at in np.argwhere(cells)
        ]
