"""How did every layer look in each replayed step? For a reader who scrubs through the steps.

The tables of all steps of a deep model are too much for a page: the failing step has its own in
full, then come those next to it and the first, as many as there is room for. The drawing of every
step's layers is small and always there, on one scale, so that the figures can be seen to move.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np

from divergence_doctor.reporters import _tables
from divergence_doctor.reporters._text import cleaned, measured, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from divergence_doctor.reporters._parts import LayerRow, StepRow
    from divergence_doctor.trace import Table, Trace

#: Rows of all the tables together, and steps that are shown at most.
MAX_ROWS: Final = 4_000
MAX_STEPS: Final = 40
#: Columns of the drawing: of more layers than this several share one, the largest counts.
COLUMNS: Final = 400
#: The drawing's own units; the page stretches it.
WIDTH: Final = 1_000
HEIGHT: Final = 100
#: Fewer layers than this are read off the table.
_FEWEST: Final = 3


@dataclass(frozen=True, slots=True)
class Profile:
    """The layers of one step as a drawing of 1,000 by 100 units, from the first to the last.

    Attributes:
        activations, gradients: points of a line, ``x,y x,y ...``, one tuple for each part of it
            without a gap.
        bad: where a layer put out, or was given back, what is not finite.
        low, high: what the lower and the upper edge stand for; the same in every step.
        sentence: the same in words.
    """

    activations: tuple[str, ...]
    gradients: tuple[str, ...]
    bad: tuple[float, ...]
    low: float
    high: float
    sentence: str


@dataclass(frozen=True)
class StepLayers:
    """Every layer in one replayed step.

    Attributes:
        step: the replayed step.
        failing: the first non-finite value appeared in it.
        title: its loss and what did not stay finite, in words.
        tabled: there is room for its table.
        profile: the drawing; None where there is too little to draw.
    """

    step: int
    failing: bool
    title: str
    tabled: bool
    profile: Profile | None
    blamed: str | None = field(repr=False, compare=False)
    trace: Trace = field(repr=False, compare=False)

    @cached_property
    def rows(self) -> tuple[LayerRow, ...]:
        """One row per layer, made when first asked for; empty where there is no room for them."""
        if not self.tabled:
            return ()
        return tuple(
            replace(row, layer=cleaned(row.layer), layer_class=cleaned(row.layer_class),
                    dtype=cleaned(row.dtype))
            for row in _tables.layers(self.trace, self.blamed, self.step)
        )  # fmt: skip


def by_step(
    trace: Trace, blamed: str | None, *, max_rows: int = MAX_ROWS, max_steps: int = MAX_STEPS
) -> tuple[StepLayers, ...]:
    """Return the steps that can be scrubbed through, in their order.

    Args:
        trace: the trace.
        blamed: path of the layer in which the first non-finite value appeared.
        max_rows: rows of all tables together; the failing step has its own whatever its length.
        max_steps: steps at most: the failing one, those next to it, and the first.
    """
    rows = _tables.steps(trace)
    layers = len(trace.table("layers"))
    if not rows or not layers:
        return ()
    middle = _tables.layers_step(trace)
    nearest = _nearest([row.step for row in rows], middle)
    shown, tabled = set(nearest[:max_steps]), set(nearest[: max(max_rows // layers, 1)])
    profiles = _profiles(trace, sorted(shown)) if layers >= _FEWEST else {}
    return tuple(
        StepLayers(
            step=row.step,
            failing=row.failing,
            title=cleaned(_title(row)),
            tabled=row.step in tabled,
            profile=profiles.get(row.step),
            blamed=blamed,
            trace=trace,
        )
        for row in rows
        if row.step in shown
    )


def _nearest(steps: Sequence[int], middle: int) -> list[int]:
    """Return steps in the order in which they are wanted: the middle, the first, those near it."""
    first = min(steps)
    return sorted(steps, key=lambda step: (step != middle, step != first, abs(step - middle)))


def _title(row: StepRow) -> str:
    return f"loss {number(row.loss)}, {row.state}"


def _profiles(trace: Trace, steps: Sequence[int]) -> dict[int, Profile]:
    places = {layer: place for place, layer in enumerate(trace.table("layers")["layer"].tolist())}
    columns = min(len(places), COLUMNS)
    activations, bad_out = _matrix(trace.table("activations"), places, steps, "absmax")
    gradients, bad_back = _matrix(trace.table("gradients"), places, steps, "l2")
    known = np.concatenate([activations[activations > 0], gradients[gradients > 0]])
    if not known.size:
        return {}
    low, high = float(known.min()), float(known.max())
    # At least two powers of ten: rounding is not to look like a landslide.
    bottom, top = math.log10(low), math.log10(high)
    spare = max(2.0 - (top - bottom), 0.0) / 2
    bottom, top = bottom - spare, top + spare
    bad = bad_out | bad_back
    return {
        step: Profile(
            activations=_lines(activations[row], columns, bottom, top),
            gradients=_lines(gradients[row], columns, bottom, top),
            bad=_marks(bad[row], columns),
            low=10.0 ** max(bottom, -307.0),
            high=10.0 ** min(top, 308.0),
            sentence=_sentence(activations[row], gradients[row], bad[row], step),
        )
        for row, step in enumerate(steps)
    }


def _matrix(
    table: Table, places: dict[str, int], steps: Sequence[int], column: str
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the largest figure of every step and layer, NaN where there is none; and what is bad.

    Of gradients those that came back to a layer's output count, not those of its variables.
    """
    largest = np.full((len(steps), len(places)), -math.inf)
    bad = np.zeros(largest.shape, dtype=bool)
    if len(table):
        rows = {step: row for row, step in enumerate(steps)}
        row = np.asarray([rows.get(step, -1) for step in table["step"].tolist()])
        place = np.asarray([places.get(layer, -1) for layer in table["layer"].tolist()])
        wanted = (row >= 0) & (place >= 0)
        if "variable" in table:
            wanted &= table["variable"] == ""
        at = row[wanted], place[wanted]
        values = table[column][wanted]
        np.maximum.at(largest, at, np.where(np.isfinite(values), values, -math.inf))
        broken = np.zeros(len(values), dtype=bool)
        for name in ("nan", "posinf", "neginf"):
            broken |= table[name][wanted] > 0
        np.logical_or.at(bad, at, broken)
    return np.where(largest == -math.inf, math.nan, largest), bad


def _lines(values: NDArray[np.float64], columns: int, bottom: float, top: float) -> tuple[str, ...]:
    """Return the parts of a line; what is zero or was not measured is a gap."""
    known = np.where(values > 0, values, 0.0)
    largest = np.maximum.reduceat(known, _starts(len(values), columns))
    with np.errstate(divide="ignore"):
        heights = HEIGHT * (1 - (np.log10(largest) - bottom) / (top - bottom))
    parts: list[list[str]] = [[]]
    for column, height in enumerate(heights.tolist()):
        if math.isfinite(height):
            parts[-1].append(f"{_across(column, columns):g},{round(height, 1):g}")
        else:
            parts.append([])
    # A line of one point is not seen: it becomes a short one.
    return tuple(
        " ".join(part if len(part) > 1 else [part[0], _beside(part[0])]) for part in parts if part
    )


def _starts(count: int, columns: int) -> NDArray[np.intp]:
    """Return at which layer each column of the drawing starts."""
    return np.arange(columns) * count // columns


def _across(column: int, columns: int) -> float:
    return round(WIDTH * (column + 0.5) / columns, 1)


def _beside(point: str) -> str:
    x, y = point.split(",")
    return f"{float(x) + 2:g},{y}"


def _marks(bad: NDArray[np.bool_], columns: int) -> tuple[float, ...]:
    marked = np.logical_or.reduceat(bad, _starts(len(bad), columns))
    return tuple(_across(int(column), columns) for column in np.flatnonzero(marked))


def _sentence(
    activations: NDArray[np.float64],
    gradients: NDArray[np.float64],
    bad: NDArray[np.bool_],
    step: int,
) -> str:
    count = len(bad)
    words = [
        f"{name} {measured(float(np.nanmin(values)))} to {measured(float(np.nanmax(values)))}"
        for name, values in (("activations", activations), ("gradients", gradients))
        if not np.isnan(values).all()
    ]
    words.append(f"{number(int(bad.sum()))} of {number(count)} layers not finite")
    return f"Step {step}: {'; '.join(words)}."
