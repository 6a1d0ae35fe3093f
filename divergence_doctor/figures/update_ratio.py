"""How far did each step move the weights, measured by the weights themselves?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, final

import numpy as np

from divergence_doctor.figures import _style
from divergence_doctor.figures._axes import legend, mark_below, positive
from divergence_doctor.figures._depth import Profile, draw_profile, profile
from divergence_doctor.figures._failure import failure, nonfinite, step_to_show
from divergence_doctor.figures._figure import Figure, columns
from divergence_doctor.figures._text import count, number, quoted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from divergence_doctor.trace import Table, Trace

#: "should be somewhere around 1e-3": Karpathy, CS231n notes, "Ratio of weights:updates".
CUSTOMARY: Final = 1e-3
#: The step is as long as the weights themselves: what was learned is overwritten.
OVERWRITES: Final = 1.0


@final
class UpdateRatio(Figure):
    """L2 of the update over L2 of the value before, by variable, a line per step."""

    name: ClassVar[str] = "update-ratio"
    title: ClassVar[str] = "Length of the step against the weights"
    order: ClassVar[int] = 30
    needs: ClassVar[frozenset[str]] = columns(
        "updates", "step order layer variable ratio nan posinf neginf"
    )

    def suits(self, trace: Trace) -> bool:
        """Say whether there is a number above 0 to draw: else the picture would be empty."""
        return super().suits(trace) and bool(
            (positive(_profile(trace.table("updates")).values) > 0).any()
        )

    def caption(self, trace: Trace) -> str:
        """Return the largest and the median ratio, and how many updates broke a variable."""
        table = trace.table("updates")
        seen, step = _profile(table), step_to_show(trace, table)
        values, bad = seen.values[seen.row(step)], seen.bad[seen.row(step)]
        finite = np.isfinite(values)
        variables = count(len(seen.names), "variable")
        said = [f"Ratio of update to weight (L2 over L2) of {variables}, step {step}"]
        if finite.any():
            largest = int(np.nanargmax(np.where(finite, values, np.nan)))
            said.append(
                f"median {number(float(np.median(values[finite])))}, largest "
                f"{number(values[largest])} at {quoted(seen.names[largest])} "
                f"({number(CUSTOMARY)} is customary)"
            )
        if bad.any():
            said.append(f"{count(int(bad.sum()), 'variable')} not finite after the step")
        return "; ".join(said) + "."

    def draw(self, trace: Trace, canvas: Canvas) -> None:
        """Draw the ratios of every step with the customary one, and the one that overwrites."""
        table = trace.table("updates")
        canvas.set_size_inches(_style.WIDTH, 4.6)
        canvas.suptitle(self.title)
        axes = canvas.subplots()
        axes.set_title("from the input (left) to the loss (right)")
        axes.set_ylabel("L2 of update / L2 of weight")
        _guide(axes, CUSTOMARY, "customary: 0.001", _style.GREEN)
        _guide(axes, OVERWRITES, "as long as the weights: 1", _style.BLACK)
        seen, bold = _profile(table), step_to_show(trace, table)
        draw_profile(axes, seen, bold=bold, where=failure(trace), also=(CUSTOMARY, OVERWRITES))
        row = seen.row(bold)
        without = ~np.isfinite(seen.values[row]) & ~seen.bad[row]
        mark_below(axes, np.flatnonzero(without), label="no ratio:\nweight is zero", marker="s")
        legend(axes)


def _profile(table: Table) -> Profile:
    bad = nonfinite(table) > 0
    if "after_nonfinite" in table:
        bad |= table["after_nonfinite"] > 0
    return profile(table, name="variable", values=table["ratio"], bad=bad)


def _guide(axes: Axes, height: float, label: str, colour: str) -> None:
    axes.axhline(height, color=colour, linestyle="--", linewidth=1.4, label=label, zorder=1)
