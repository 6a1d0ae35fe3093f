"""Which samples of the batch make the loss what it is?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, final

import numpy as np

from divergence_doctor.figures import _style
from divergence_doctor.figures._axes import (
    bounded,
    legend,
    mark_not_finite,
    number_samples,
    value_scale,
)
from divergence_doctor.figures._failure import failure, step_to_show
from divergence_doctor.figures._figure import Figure, columns
from divergence_doctor.figures._suspects import culprits_in_words, list_samples, mark_culprits
from divergence_doctor.figures._text import count, drawable, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from divergence_doctor.trace import Table, Trace

_MOST_TERMS: Final = len(_style.SERIES)
#: With more samples than this the marks become points.
_MOST_MARKS: Final = 300


@final
class SampleLoss(Figure):
    """Loss of every sample of the failing (or last) step, with the samples to blame marked."""

    name: ClassVar[str] = "sample-loss"
    title: ClassVar[str] = "Loss of each sample"
    order: ClassVar[int] = 60
    needs: ClassVar[frozenset[str]] = columns("sample_losses", "step name sample value")

    def suits(self, trace: Trace) -> bool:
        """Say whether a loss is finite: of nothing but NaN there is no picture."""
        return super().suits(trace) and bool(np.isfinite(_read(trace)[1]["value"]).any())

    def caption(self, trace: Trace) -> str:
        """Return the median and the largest loss, and the samples that are not finite."""
        step, rows = _read(trace)
        values, finite = rows["value"], np.isfinite(rows["value"])
        said = [f"Loss of {count(len(set(rows['sample'].tolist())), 'sample')} in step {step}"]
        if finite.any():
            highest = int(np.argmax(np.where(finite, values, -np.inf)))
            said.append(
                f"median {number(float(np.median(values[finite])))}, largest finite "
                f"{number(float(values[highest]))} at sample {rows['sample'][highest]}"
            )
        if not finite.all():
            said.append(f"not finite in sample {list_samples(rows['sample'][~finite].tolist())}")
        said += culprits_in_words(failure(trace))
        return "; ".join(said) + "."

    def draw(self, trace: Trace, canvas: Canvas) -> None:
        """Draw one mark per sample and term of the loss."""
        step, rows = _read(trace)
        canvas.set_size_inches(_style.WIDTH, 4.0)
        canvas.suptitle(self.title)
        axes = canvas.subplots()
        axes.set_title(f"step {step}")
        scale = value_scale(axes, rows["value"])
        axes.set_ylabel("loss" if scale == "linear" else f"loss ({scale} scale)")
        _points(axes, rows)
        where = rows["sample"]
        mark_not_finite(axes, np.unique(where[~np.isfinite(rows["value"])]))
        mark_culprits(axes, failure(trace), among=where.tolist())
        number_samples(axes, int(where.max()) + 1)
        legend(axes)


def _read(trace: Trace) -> tuple[int, Table]:
    table = trace.table("sample_losses")
    step = step_to_show(trace, table)
    return step, table.select(step=step)


def _points(axes: Axes, rows: Table) -> None:
    names = list(dict.fromkeys(rows["name"].tolist()))
    for colour, name in zip(_style.SERIES, names[:_MOST_TERMS], strict=False):
        term = rows.select(name=name)
        few = len(term) <= _MOST_MARKS
        axes.plot(
            term["sample"],
            bounded(term["value"]),
            linestyle="none",
            marker="o",
            markersize=5 if few else 2,
            color=colour,
            # Matplotlib leaves labels that start with an underscore out of the legend.
            label=f"term {drawable(str(name))}" if len(names) > 1 else "one sample",
        )
