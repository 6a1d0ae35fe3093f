"""Do gradients grow, vanish or break on their way back through the network?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import numpy as np

from divergence_doctor.figures import _style
from divergence_doctor.figures._axes import legend, positive
from divergence_doctor.figures._depth import Profile, draw_profile, profile
from divergence_doctor.figures._failure import failure, nonfinite, step_to_show
from divergence_doctor.figures._figure import Figure, columns
from divergence_doctor.figures._text import count, number, quoted

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from divergence_doctor.trace import Table, Trace


@final
class GradientNorm(Figure):
    """L2 norm of the gradient of every variable in the order of depth, a line per step."""

    name: ClassVar[str] = "gradient-norm"
    title: ClassVar[str] = "Gradient norm through the network"
    order: ClassVar[int] = 20
    needs: ClassVar[frozenset[str]] = columns(
        "gradients", "step order layer variable l2 nan posinf neginf"
    )

    def suits(self, trace: Trace) -> bool:
        """Say whether there is a number above 0 to draw: else the picture would be empty."""
        return super().suits(trace) and bool((positive(_profile(_table(trace)).values) > 0).any())

    def caption(self, trace: Trace) -> str:
        """Return the smallest and the largest norm of the step, and what is not finite."""
        table = _table(trace)
        seen, step = _profile(table), step_to_show(trace, table)
        values, bad = seen.values[seen.row(step)], seen.bad[seen.row(step)]
        what = f"L2 norm of the gradient by {_names(table)} in the order of depth, step {step}"
        said = [what]
        if np.isfinite(values).any():
            low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
            said.append(
                f"from {number(values[low])} at {quoted(seen.names[low])} "
                f"to {number(values[high])} at {quoted(seen.names[high])}"
            )
        if bad.any():
            named = quoted(seen.names[int(np.flatnonzero(bad)[-1])])
            said.append(f"{count(int(bad.sum()), 'gradient')} not finite, the deepest at {named}")
        else:
            said.append("all gradients are finite")
        return "; ".join(said) + "."

    def draw(self, trace: Trace, canvas: Canvas) -> None:
        """Draw the norms of every step, the failing (or last) one bold."""
        table = _table(trace)
        canvas.set_size_inches(_style.WIDTH, 4.6)
        canvas.suptitle(self.title)
        axes = canvas.subplots()
        axes.set_title("from the input (left) to the loss (right)")
        axes.set_ylabel("L2 norm of the gradient")
        bold = step_to_show(trace, table)
        draw_profile(axes, _profile(table), bold=bold, where=failure(trace))
        legend(axes)


def _table(trace: Trace) -> Table:
    """Return the gradients of variables; where none were recorded, those that came to layers."""
    gradients = trace.table("gradients")
    of_variables = gradients["variable"] != ""
    return gradients.where(of_variables) if of_variables.any() else gradients


def _names(table: Table) -> str:
    return "variable" if bool((table["variable"] != "").any()) else "layer"


def _profile(table: Table) -> Profile:
    return profile(table, name=_names(table), values=table["l2"], bad=nonfinite(table) > 0)
