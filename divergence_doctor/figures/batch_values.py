"""What was the step fed: which magnitudes, and which samples stand out?"""

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
from divergence_doctor.figures._failure import Failure, failure, nonfinite, step_to_show
from divergence_doctor.figures._fed import arrays_of
from divergence_doctor.figures._figure import Figure, columns
from divergence_doctor.figures._suspects import (
    culprits_in_words,
    far_out,
    list_samples,
    mark_culprits,
)
from divergence_doctor.figures._text import count, drawable, number, power_of_two, quoted
from divergence_doctor.trace.schema import EXPONENT_BINS, EXPONENT_MIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from numpy.typing import NDArray

    from divergence_doctor.trace import Table, Trace

#: Arrays beyond these are left out of the picture; the title says so.
_MOST_ARRAYS: Final = 6
#: Narrower than this a histogram says little.
_LEAST_BINADES: Final = 8
#: Ticks keep this part of the axis between them and the one for zero.
_CLEAR: Final = 0.17
_SAMPLES: Final = columns("samples", "batch name sample nonfinite min max")
_TARGETS: Final = columns("targets", "array loss classes")
_MOST_BARS: Final = 300


@final
class BatchValues(Figure):
    """For every array of the batch: its magnitudes, and the range of each of its samples."""

    name: ClassVar[str] = "batch-values"
    title: ClassVar[str] = "Values of the batch"
    order: ClassVar[int] = 50
    needs: ClassVar[frozenset[str]] = columns(
        "batch", "batch name dtype shape size zero nan posinf neginf min max exponents"
    )

    def caption(self, trace: Trace) -> str:
        """Return each array's range and the samples that stand out."""
        arrays = _arrays(trace)
        said = []
        for row in range(min(len(arrays), _MOST_ARRAYS)):
            samples = _samples(trace, arrays, row)
            bad, far = _suspects(samples)
            words = f"{quoted(str(arrays['name'][row]))} {_range(arrays, row)}"
            if len(bad):
                words += f", not finite in sample {list_samples(bad.tolist())}"
            if len(far):
                words += f", far outside the others in sample {list_samples(far.tolist())}"
            said.append(words)
        said += culprits_in_words(failure(trace))
        return f"Values of the batch ({count(len(arrays), 'array')}): {'; '.join(said)}."

    def draw(self, trace: Trace, canvas: Canvas) -> None:
        """Draw one row per array: magnitudes on the left, ranges by sample on the right."""
        arrays = _arrays(trace)
        rows = min(len(arrays), _MOST_ARRAYS)
        canvas.set_size_inches(_style.WIDTH, 0.7 + 2.7 * rows)
        more = len(arrays) - rows
        canvas.suptitle(self.title + (f" (first {rows} of {len(arrays)} arrays)" if more else ""))
        grid = canvas.subplots(rows, 2, squeeze=False, width_ratios=(1.0, 1.7))
        where = failure(trace)
        for row in range(rows):
            _magnitudes(grid[row, 0], arrays, row)
            samples = _samples(trace, arrays, row)
            if len(samples):
                _ranges(grid[row, 1], samples, where, _classes(trace, str(arrays["name"][row])))
            else:
                grid[row, 1].set_visible(False)


def _arrays(trace: Trace) -> Table:
    """Return the arrays of the batch of the step that is shown."""
    steps = trace.table("steps")
    return arrays_of(trace, step_to_show(trace, steps) if len(steps) else 0)


def _samples(trace: Trace, arrays: Table, row: int) -> Table:
    samples = trace.table("samples")
    if not all(map(trace.has, _SAMPLES)):
        return samples.where(np.zeros(len(samples), dtype=bool))
    return samples.select(batch=int(arrays["batch"][row]), name=str(arrays["name"][row]))


def _suspects(samples: Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the samples that hold NaN or Inf, and those far outside the others."""
    if not len(samples):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    where = samples["sample"]
    largest = np.fmax(np.abs(samples["min"]), np.abs(samples["max"]))
    return where[samples["nonfinite"] > 0], where[far_out(largest)]


def _range(arrays: Table, row: int) -> str:
    """Return an array's range and its NaN and Inf in words."""
    bad = int(nonfinite(arrays)[row])
    low, high = float(arrays["min"][row]), float(arrays["max"][row])
    words = f"{number(low)} to {number(high)}" if np.isfinite(low) else "no finite value"
    return f"{words}, {bad:,} NaN or Inf" if bad else words


def _magnitudes(axes: Axes, arrays: Table, row: int) -> None:
    """Draw the histogram of base-2 exponents, zeros and what is not finite beside it."""
    histogram = arrays["exponents"][row].astype(np.float64)
    size = max(int(arrays["size"][row]), 1)
    occupied = np.flatnonzero(histogram)
    low, high = (int(occupied[0]), int(occupied[-1])) if occupied.size else (146, 153)
    missing = max(0, _LEAST_BINADES - (high - low))
    low, high = max(low - missing // 2, 0), min(high + missing - missing // 2, EXPONENT_BINS - 1)
    bins = np.arange(low, high + 1)
    gap = 0.08 * len(bins)
    left, right = bins[0] - gap - 1, bins[-1] + gap + 2
    wide = max(1.0, 0.04 * len(bins))
    parts = (
        (left, max(int(arrays["zero"][row]), 0), _style.FAINT),
        (right, int(nonfinite(arrays)[row]), _style.NOT_FINITE),
    )
    axes.bar(bins + 0.5, histogram[bins] / size, width=1.0, color=_style.BLUE)
    for place, number_of, colour in parts:
        axes.bar([place], [number_of / size], width=wide, color=colour)
    stride = max(2, -(-len(bins) // 4))
    ticks = [
        index
        for index in range(low, high + 2)
        if (index + EXPONENT_MIN) % stride == 0 and index - left > _CLEAR * len(bins)
    ]
    labels = [power_of_two(index + EXPONENT_MIN) for index in ticks]
    axes.set_xticks([left, *ticks, right], ["zero", *labels, "NaN\nInf"])
    axes.get_xticklabels()[-1].set(color=_style.NOT_FINITE_WORDS if parts[1][1] else _style.FAINT)
    axes.set_xlim(left - wide, right + wide)
    axes.set_ylabel("share of the values")
    axes.set_xlabel("magnitude |x|")
    shape = f"{drawable(str(arrays['shape'][row]))} {drawable(str(arrays['dtype'][row]))}"
    axes.set_title(f"{drawable(str(arrays['name'][row]))}   {shape}")


def _classes(trace: Trace, array: str) -> int:
    """Return how many classes an array of labels may name; 0 where it names none."""
    if not all(map(trace.has, _TARGETS)):
        return 0
    judged = trace.table("targets").select(array=array)
    sparse = ["SparseCategorical" in str(loss) for loss in judged["loss"].tolist()]
    return int(max([0, *judged["classes"][np.asarray(sparse, dtype=bool)].tolist()]))


def _ranges(axes: Axes, samples: Table, failed: Failure, classes: int) -> None:
    """Draw every sample from its smallest to its largest value; mark those that stand out.

    Args:
        axes: where.
        samples: rows of ``samples`` of one array.
        failed: whose samples are shaded.
        classes: as many labels there are, from 0 on; 0 where the values are no labels.
    """
    where, low, high = samples["sample"], bounded(samples["min"]), bounded(samples["max"])
    bad, far = _suspects(samples)
    scale = value_scale(axes, np.concatenate([low, high, [classes - 0.5] if classes else []]))
    few = len(where) <= _MOST_BARS
    axes.vlines(
        where,
        low,
        high,
        color=_style.SKY if few else _style.BLUE,
        linewidth=max(0.5, min(6.0, 240 / len(where))),
        rasterized=not few,  # thousands of lines would make an SVG of megabytes
    )
    for values in (low, high):
        axes.plot(
            where,
            values,
            linestyle="none",
            marker="_" if few else ".",
            markersize=5 if few else 1.5,
            color=_style.BLUE,
            rasterized=not few,
        )
    outside = np.isin(where, far)
    if outside.any():
        peak = np.where(np.abs(low) > np.abs(high), low, high)[outside]
        axes.plot(
            where[outside],
            peak,
            "D",
            color=_style.PURPLE,
            markersize=6,
            label="far outside\nthe others",
            zorder=4,
        )
    if classes > 0:
        axes.axhline(
            classes - 0.5,
            color=_style.GREEN,
            linestyle="--",
            linewidth=1.4,
            label=f"above: no class\n(the last is {classes - 1})",
        )
    mark_not_finite(axes, bad, label="NaN or Inf")
    mark_culprits(axes, failed, among=where.tolist())
    number_samples(axes, int(where.max()) + 1)
    axes.set_title("range of each sample" + ("" if scale == "linear" else f" ({scale} scale)"))
    legend(axes)
