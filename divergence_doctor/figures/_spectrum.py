"""Which magnitudes did each layer's tensors hold in one step? Histograms side by side, by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, final

import numpy as np

from divergence_doctor.figures._failure import Failure, nonfinite
from divergence_doctor.figures._fed import arrays_of
from divergence_doctor.figures._figure import columns
from divergence_doctor.figures._limits import LIMITS
from divergence_doctor.trace.schema import EXPONENT_BINS, EXPONENT_MIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from divergence_doctor.trace import Table, Trace

_TENSOR: Final = "dtype size zero nan posinf neginf exponents absmax l2"
#: What the figures of a step's magnitudes cannot do without.
NEEDS: Final = columns("activations", f"step order layer call role {_TENSOR}")
_BACKWARD: Final = columns("gradients", f"step order layer call variable {_TENSOR}")
_FED: Final = columns("batch", f"batch name role {_TENSOR}")

#: A column: the layer, which call of it, and whether it is an input of the model.
Key = tuple[str, int, bool]


@final
@dataclass
class Cell:
    """What one layer call put out, its outputs taken together.

    Attributes:
        histogram: elements by base-2 exponent.
        size, zero, nonfinite: how many elements, zeros, and NaN or Inf.
        absmax: largest magnitude among the finite elements; NaN without any.
        l2: L2 norm of the finite elements.
        dtype: of the first output.
    """

    histogram: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(EXPONENT_BINS, dtype=np.int64)
    )
    size: int = 0
    zero: int = 0
    nonfinite: int = 0
    absmax: float = math.nan
    l2: float = 0.0
    dtype: str = ""

    @property
    def rms(self) -> float:
        """Root of the mean square of the finite elements; NaN without any."""
        finite = self.size - self.nonfinite
        return self.l2 / math.sqrt(finite) if finite > 0 else math.nan


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

    def has_finite(self) -> bool:
        """Say whether any element is finite: a picture of nothing but NaN is empty."""
        return any(cell.size > cell.nonfinite for cell in self.cells.values())

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

    def known(self) -> list[str]:
        """Return those of the dtypes whose limits are known: the floating-point ones."""
        return [dtype for dtype in self.dtypes() if dtype in LIMITS]

    def narrowest(self) -> str:
        """Return the dtype that overflows first; empty when no floating-point dtype occurs."""
        every = ((LIMITS[dtype].largest, dtype) for dtype in self.known())
        return min(every, default=(0.0, ""))[1]

    def names(self) -> list[str]:
        """Return the names of the columns, as the trace gives them."""
        return [column_name(key) for key in self.columns]

    def highlight(self, where: Failure) -> int | None:
        """Return the column of the layer where it started, else the first not finite."""
        named = [i for i, key in enumerate(self.columns) if key[0] == where.layer and not key[2]]
        if where.layer and named:
            bad = self.bad()
            return next((column for column in named if column in bad), named[0])
        return None if where.op else min(self.bad(), default=None)


def column_name(key: Key) -> str:
    """Return how a column is called: the layer, its call where it is not the first."""
    layer, call, is_input = key
    if is_input:
        return f"input: {layer}" if layer else "input"
    return f"{layer} (call {call + 1})" if call > 0 else layer


def spectra_of(trace: Trace, step: int) -> tuple[Spectrum, Spectrum]:
    """Return what the layers put out in a step, and the gradients that came back to them.

    Args:
        trace: it must hold the columns of ``NEEDS``.
        step: replayed step.
    """
    gradients = trace.table("gradients")
    kept = all(map(trace.has, _BACKWARD))
    mask = (gradients["step"] == step) & (gradients["variable"] == "") if kept else []
    backward = gradients.where(np.asarray(mask, dtype=bool)) if kept else gradients
    forward = trace.table("activations").select(step=step)
    # A trace that does not say what entered the model still says what the step was fed.
    has_inputs = bool(np.any(forward["role"] == "input")) or not all(map(trace.has, _FED))
    fed = None if has_inputs else arrays_of(trace, step).select(role="x")
    return spectra(forward, backward, fed=fed)


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
    largest, norms = table["absmax"].tolist(), table["l2"].tolist()
    for row, (key, order) in enumerate(keys):
        _, cell = cells.setdefault(key, (order, Cell()))
        cell.histogram += histograms[row]
        cell.size += max(sizes[row], 0)
        cell.zero += max(zeros[row], 0)
        cell.nonfinite += bad[row]
        # An output without a finite element (NaN) must not hide the others; hypot cannot overflow
        # on the way.
        cell.absmax = float(np.fmax(cell.absmax, largest[row]))
        cell.l2 = math.hypot(cell.l2, norms[row]) if norms[row] > 0 else cell.l2
        cell.dtype = cell.dtype or str(dtypes[row])
    return cells
