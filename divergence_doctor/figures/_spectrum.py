"""Which magnitudes did each layer's tensors hold in one step? Histograms side by side, by layer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import numpy as np

from divergence_doctor.figures._failure import nonfinite
from divergence_doctor.trace.schema import EXPONENT_BINS, EXPONENT_MIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from divergence_doctor.trace import Table

#: A column: the layer, which call of it, and whether it is an input of the model.
Key = tuple[str, int, bool]


@final
@dataclass
class Cell:
    """What one layer call put out, its outputs taken together."""

    histogram: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(EXPONENT_BINS, dtype=np.int64)
    )
    size: int = 0
    zero: int = 0
    nonfinite: int = 0
    dtype: str = ""


@final
@dataclass(frozen=True, slots=True)
class Spectrum:
    """Cells by column, for the columns of the picture.

    Attributes:
        cells: by column; a column may be missing (no gradient came back there).
        columns: the columns in the order of execution, inputs first.
    """

    cells: dict[int, Cell]
    columns: tuple[Key, ...]

    def share(self) -> NDArray[np.float64]:
        """Return the share of each column's elements in each exponent's bin, (bins, columns)."""
        image = np.zeros((EXPONENT_BINS, len(self.columns)))
        for column, cell in self.cells.items():
            image[:, column] = cell.histogram / max(cell.size, 1)
        return image

    def zeros(self) -> NDArray[np.float64]:
        """Return the share of each column's elements that are zero."""
        image = np.zeros(len(self.columns))
        for column, cell in self.cells.items():
            image[column] = max(cell.zero, 0) / max(cell.size, 1)
        return image

    def bad(self) -> dict[int, Cell]:
        """Return the columns that hold NaN or Inf."""
        return {column: cell for column, cell in self.cells.items() if cell.nonfinite > 0}

    def span(self) -> tuple[int, int] | None:
        """Return the smallest and the largest exponent that occurs, or None without any."""
        if not self.cells:
            return None
        occupied = np.flatnonzero(sum(cell.histogram for cell in self.cells.values()))
        if not occupied.size:
            return None
        return int(occupied[0]) + EXPONENT_MIN, int(occupied[-1]) + EXPONENT_MIN

    def dtypes(self) -> tuple[str, ...]:
        """Return the dtypes that occur, each once, in the order of execution."""
        return tuple(dict.fromkeys(self.cells[column].dtype for column in sorted(self.cells)))


def spectra(
    forward: Table, backward: Table, *, fed: Table | None = None
) -> tuple[Spectrum, Spectrum]:
    """Return the spectra of one step's activations and of the gradients that came back to layers.

    Args:
        forward: rows of ``activations`` of one step.
        backward: rows of ``gradients`` of the same step whose variable is empty.
        fed: rows of ``batch`` that entered the model, where ``forward`` does not hold its inputs.

    Both have the same columns: the calls of layers in the order of execution, inputs first.
    """
    there = _cells(forward, keys=_layer_keys(forward, roles=forward["role"].tolist()))
    back = _cells(backward, keys=_layer_keys(backward, roles=[""] * len(backward)))
    if fed is not None:
        there |= _cells(fed, keys=[((str(name), 0, True), -1) for name in fed["name"].tolist()])
    order: dict[Key, int] = {}
    for key, (place, _) in (*there.items(), *back.items()):
        order.setdefault(key, place)
    columns = tuple(sorted(order, key=lambda key: (not key[2], order[key])))
    column_of = {key: column for column, key in enumerate(columns)}
    return (
        Spectrum({column_of[key]: cell for key, (_, cell) in there.items()}, columns),
        Spectrum({column_of[key]: cell for key, (_, cell) in back.items()}, columns),
    )


def _layer_keys(table: Table, *, roles: Sequence[str]) -> list[tuple[Key, int]]:
    """Return the column that each row belongs to, and its place in the order of execution."""
    rows = zip(
        table["layer"].tolist(), table["call"].tolist(), roles, table["order"].tolist(), strict=True
    )
    return [((str(layer), call, role == "input"), order) for layer, call, role, order in rows]


def _cells(table: Table, *, keys: Sequence[tuple[Key, int]]) -> dict[Key, tuple[int, Cell]]:
    cells: dict[Key, tuple[int, Cell]] = {}
    sizes, zeros, dtypes = table["size"].tolist(), table["zero"].tolist(), table["dtype"].tolist()
    bad, histograms = nonfinite(table).tolist(), table["exponents"]
    for row, (key, order) in enumerate(keys):
        _, cell = cells.setdefault(key, (order, Cell()))
        cell.histogram += histograms[row]
        cell.size += max(sizes[row], 0)
        cell.zero += max(zeros[row], 0)
        cell.nonfinite += bad[row]
        cell.dtype = cell.dtype or str(dtypes[row])
    return cells
