"""How does a norm or a ratio run through the depth of the network, step after step?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np

from divergence_doctor.figures import _style
from divergence_doctor.figures._axes import (
    band,
    log_scale,
    mark_below,
    mark_not_finite,
    name_columns,
    positive,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from divergence_doctor.figures._failure import Failure
    from divergence_doctor.trace import Table

#: With more columns than this, points on a line hide each other.
_MOST_POINTS: Final = 60
#: More earlier steps than this are not named one by one.
_MOST_NAMED: Final = 5


@final
@dataclass(frozen=True, slots=True)
class Profile:
    """One value per step and column; columns in the order of depth.

    Attributes:
        steps: the steps, ascending.
        names: names of the columns.
        layers: layer of each column.
        values: (steps, columns) float64; NaN where there is none.
        bad: (steps, columns); the tensor behind the value holds NaN or Inf.
    """

    steps: tuple[int, ...]
    names: tuple[str, ...]
    layers: tuple[str, ...]
    values: NDArray[np.float64]
    bad: NDArray[np.bool_]

    def row(self, step: int) -> int:
        """Return the row of a step."""
        return self.steps.index(step)


def profile(
    table: Table, *, name: str, values: NDArray[np.float64], bad: NDArray[np.bool_]
) -> Profile:
    """Return the profile of a table's rows.

    Args:
        table: rows with ``step``, ``order`` and ``layer``; of rows for the same step and name
            the last counts.
        name: the column that names the rows, e.g. ``variable``.
        values: one per row.
        bad: one per row; such a row has no value, only a mark.
    """
    steps, row = np.unique(table["step"], return_inverse=True)
    labels = [str(label) for label in table[name]]
    place: dict[str, tuple[int, str]] = {}
    for label, order, layer in zip(labels, table["order"].tolist(), table["layer"], strict=True):
        place.setdefault(label, (int(order), str(layer)))
    names = sorted(place, key=lambda label: place[label][0])
    at = {label: index for index, label in enumerate(names)}
    column = np.asarray([at[label] for label in labels], dtype=np.int64)
    grid = np.full((len(steps), len(names)), np.nan)
    marks = np.zeros(grid.shape, dtype=bool)
    grid[row, column] = np.where(bad, np.nan, values)
    marks[row, column] = bad
    return Profile(
        tuple(int(step) for step in steps),
        tuple(names),
        tuple(place[label][1] for label in names),
        grid,
        marks,
    )


def draw_profile(
    axes: Axes, seen: Profile, *, bold: int, where: Failure, also: tuple[float, ...] = ()
) -> None:
    """Draw one line per step on a logarithmic axis, one step bold; mark what is not finite.

    Args:
        axes: where.
        seen: what.
        bold: the step to draw bold.
        where: the failure, whose layer is shaded.
        also: further heights that must be in view.
    """
    drawn = positive(seen.values)
    columns = np.arange(len(seen.names))
    few = len(columns) <= _MOST_POINTS
    shades = _shades(len(seen.steps))
    for index, step in enumerate(seen.steps):
        if step != bold:
            axes.plot(
                columns,
                drawn[index],
                color=shades[index],
                linewidth=1.2,
                marker="o" if few else "",
                markersize=2.5,
                label=_step_label(seen.steps, step, bold),
            )
    axes.plot(
        columns,
        drawn[seen.row(bold)],
        color=_style.BLUE,
        linewidth=2.6,
        marker="o" if few else "",
        markersize=5,
        label=f"step {bold}",
        zorder=3,
    )
    log_scale(axes, np.concatenate([drawn.ravel(), np.asarray(also)]))
    shaded = [c for c in columns.tolist() if where.layer and seen.layers[c] == where.layer]
    for column in shaded:
        band(axes, column, columns=len(columns))
    mark_not_finite(axes, np.flatnonzero(seen.bad.any(axis=0)), label=_bad_label(seen))
    mark_below(axes, np.flatnonzero(seen.values[seen.row(bold)] == 0), label=f"zero in step {bold}")
    name_columns(axes, seen.names, highlight=shaded[0] if shaded else None)


def _bad_label(seen: Profile) -> str:
    steps = [step for step, row in zip(seen.steps, seen.bad, strict=True) if row.any()]
    if len(steps) > 1:
        return f"not finite\n(from step {steps[0]})"
    return f"not finite\n(step {steps[0]})" if steps else ""


def _step_label(steps: tuple[int, ...], step: int, bold: int) -> str:
    """Return the legend's words for an earlier step; of many, only two are named."""
    others = [other for other in steps if other != bold]
    if len(others) <= _MOST_NAMED or step in {others[0], others[-1]}:
        return f"step {step}"
    return "_one of many"  # matplotlib keeps labels with an underscore out of the legend


def _shades(count: int) -> list[tuple[float, float, float]]:
    """Return greys from pale (the first step) to dark (the last)."""
    return [(level, level, level + 0.04) for level in np.linspace(0.72, 0.36, count).tolist()]
