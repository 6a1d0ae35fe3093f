"""How are layers, samples and numbers of any size put on an axis? Safely for zero, NaN and Inf.

Every function sets limits and ticks itself: matplotlib's own choice overflows on numbers near the
end of float64, and its logarithmic labels are maths text, which is switched off.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor.figures import _style
from divergence_doctor.figures._text import distinct, power_of_two

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike, NDArray

#: Numbers are drawn within these bounds, so that the width of an axis stays within float64.
_SMALLEST: Final = 1e-300
_LARGEST: Final = 1e300
#: More labels than this cannot be read side by side on a picture 10 inches wide.
_MOST_LABELS: Final = 46
_MOST_SLANTED: Final = 26
#: Characters of the usual size that fit side by side along the axis.
_CHARACTERS_ACROSS: Final = 84
#: A positive range wider than this is drawn by its logarithm.
_LOG_FROM: Final = 10.0
#: Magnitudes this far above the typical one would flatten the others on a linear axis.
_SYMLOG_FROM: Final = 1000.0
_MOST_TICKS: Final = 8
#: Ticks between the decades help where there are few decades, and clutter where there are many.
_MINOR_WITHIN: Final = 3
#: Room for the marks at the top and at the bottom, as a part of the axis.
_ROOM: Final = 0.12
#: Decades of room on a logarithmic axis; more would lead from 1e300 beyond float64.
_MOST_ROOM: Final = 5.0
#: A shaded column is at least this part of the axis wide.
_THINNEST: Final = 0.006
_MARK_TOP: Final = 0.955
_MARK_BOTTOM: Final = 0.035


def name_columns(axes: Axes, names: Sequence[str], *, highlight: int | None = None) -> None:
    """Name the columns 0, 1, ... along x; thinned out and turned where they are many.

    Args:
        axes: where.
        names: one per column, as the trace gives them.
        highlight: a column that is always named, in the colour of what is not finite.
    """
    labels = distinct(names)
    stride = -(-len(labels) // _MOST_LABELS)
    shown = [index for index in range(len(labels)) if _is_shown(index, stride, highlight)]
    widest = max((len(labels[index]) for index in shown), default=0)
    axes.set_xticks(shown, [labels[index] for index in shown])
    if (widest + 1) * len(shown) <= _CHARACTERS_ACROSS:
        turned: dict[str, Any] = {"rotation": 0}
    elif len(shown) <= _MOST_SLANTED:
        turned = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    else:
        turned = {"rotation": 90, "fontsize": 8}
    for index, label in zip(shown, axes.get_xticklabels(), strict=True):
        label.set(**turned)
        if index == highlight:
            label.set(color=_style.NOT_FINITE_WORDS, fontweight="bold")
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.grid(visible=False, axis="x")


def _is_shown(index: int, stride: int, highlight: int | None) -> bool:
    if highlight is None or stride == 1:
        return index % stride == 0
    return index == highlight or (index % stride == 0 and abs(index - highlight) >= stride)


def number_samples(axes: Axes, count: int) -> None:
    """Number the samples of a batch along x, from 0."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    room = 0.5 + min(0.01 * count, 0.4)  # less than one, so that no tick names a sample too many
    axes.set_xlim(-room, count - 1 + room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("sample of the batch")


def band(axes: Axes, column: float, *, columns: int) -> None:
    """Shade one of so many columns: this is where it started. A thin one is shaded wider."""
    half = max(0.5, _THINNEST * columns / 2)
    axes.axvspan(column - half, column + half, color=_style.ORANGE, alpha=0.28, lw=0, zorder=0.5)


def bounded(values: ArrayLike) -> NDArray[np.float64]:
    """Return values as they are drawn: within ±1e300, what is not finite as NaN (a gap).

    What lies between ±1e-300 is drawn as zero.
    """
    wide = np.asarray(values, dtype=np.float64)
    within = np.where(np.abs(wide) < _SMALLEST, 0.0, np.clip(wide, -_LARGEST, _LARGEST))
    return np.where(np.isfinite(wide), within, np.nan)


def positive(values: ArrayLike) -> NDArray[np.float64]:
    """Return values as a logarithmic axis draws them: zero and below, NaN and Inf are gaps."""
    wide = np.asarray(values, dtype=np.float64)
    there = np.isfinite(wide) & (wide > 0)
    return np.where(there, np.clip(wide, _SMALLEST, _LARGEST), np.nan)


def log_scale(axes: Axes, values: ArrayLike) -> None:
    """Give y a logarithmic axis around the positive ones of the values, whole decades."""
    drawn = positive(values)
    drawn = drawn[np.isfinite(drawn)]
    low, high = (math.log10(drawn.min()), math.log10(drawn.max())) if drawn.size else (-1.0, 0.0)
    low, high = math.floor(low - 0.05), math.ceil(high + 0.05)
    room = min(_ROOM * (high - low), _MOST_ROOM)
    axes.set_autoscaley_on(False)  # it warns of values that are all alike
    axes.set_yscale("log")
    axes.set_ylim(10.0 ** (low - room), 10.0 ** (high + room))
    few = range(low, high) if high - low <= _MINOR_WITHIN else range(0)
    _tick(axes, _decades(low, high), [n * 10.0**k for k in few for n in range(2, 10)])


def value_scale(axes: Axes, values: ArrayLike) -> str:
    """Give y the axis that suits the values and return its kind.

    Returns:
        ``log`` for positive values over more than a decade, ``symlog`` where a few magnitudes
        would flatten the others, ``linear`` otherwise.
    """
    drawn = bounded(values)
    drawn = drawn[np.isfinite(drawn)]
    sizes = np.abs(drawn[drawn != 0])
    if sizes.size and drawn.min() > 0 and drawn.max() / _LOG_FROM >= drawn.min():
        log_scale(axes, drawn)
        return "log"
    if sizes.size and sizes.max() / _SYMLOG_FROM > float(np.median(sizes)):
        _symlog(axes, drawn, typical=float(np.median(sizes)))
        return "symlog"
    low, high = (float(drawn.min()), float(drawn.max())) if drawn.size else (0.0, 1.0)
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        around = 0.5 * max(abs(low), abs(high)) or 0.5
        low, high = low - around, high + around
    room = _ROOM * (high - low)
    axes.set_ylim(low - room, high + room)
    return "linear"


def _symlog(axes: Axes, drawn: NDArray[np.float64], *, typical: float) -> None:
    start = math.ceil(math.log10(max(typical, _SMALLEST)))
    threshold = 10.0**start
    axes.set_autoscaley_on(False)
    axes.set_yscale("symlog", linthresh=threshold)
    below, above = max(0.0, -float(drawn.min())), max(0.0, float(drawn.max()))
    low, high = (math.ceil(math.log10(max(end, threshold)) + 0.3) for end in (below, above))
    axes.set_ylim(-(10.0**low) if below else -threshold, 10.0**high if above else threshold)
    # The two sides share their strides; the decades from zero to the threshold are one straight.
    shared = _decades(start, max(low if below else start, high if above else start))
    up = [tick for tick in shared if above and tick <= 10.0**high]
    down = [-tick for tick in shared if below and tick <= 10.0**low]
    _tick(axes, [*down, 0.0, *up], [])


def _decades(low: int, high: int) -> list[float]:
    """Return powers of ten between two exponents, evenly spaced and few enough to be read."""
    stride = max(1, -(-(high - low) // _MOST_TICKS))
    return [10.0**exponent for exponent in range(low, high + 1, stride)]


def _tick(axes: Axes, major: Sequence[float], minor: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    axes.yaxis.set_major_locator(FixedLocator(major))
    axes.yaxis.set_minor_locator(FixedLocator(minor))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def power_of_ten(value: float) -> str:
    """Return a power of ten of either sign as people write it: ``0.01``, ``1``, ``10⁶``."""
    if value == 0:
        return "0"
    exponent = round(math.log10(abs(value)))
    plain = {-3: "0.001", -2: "0.01", -1: "0.1", 0: "1", 1: "10", 2: "100", 3: "1,000"}
    sign = "\N{MINUS SIGN}" if value < 0 else ""
    return sign + plain.get(exponent, "10" + power_of_two(exponent)[1:])


def mark_not_finite(axes: Axes, columns: ArrayLike, *, label: str = "not finite") -> None:
    """Mark columns at the top of the axes: what stands there is NaN or Inf."""
    _mark(axes, columns, _MARK_TOP, marker="^", color=_style.NOT_FINITE, label=label)


def mark_below(axes: Axes, columns: ArrayLike, *, label: str, marker: str = "o") -> None:
    """Mark columns at the bottom of a logarithmic axis, where zero has no place."""
    _mark(axes, columns, _MARK_BOTTOM, marker=marker, color=_style.FAINT, label=label, hollow=True)


def _mark(
    axes: Axes,
    columns: ArrayLike,
    height: float,
    *,
    marker: str,
    color: str,
    label: str,
    hollow: bool = False,
) -> None:
    where = np.asarray(columns, dtype=np.float64)
    if not where.size:
        return
    axes.plot(
        where,
        np.full(where.shape, height),
        transform=axes.get_xaxis_transform(),
        linestyle="none",
        marker=marker,
        markersize=7,
        color=color,
        markerfacecolor="white" if hollow else color,
        label=label,
        clip_on=False,
        zorder=5,
        scalex=False,
        scaley=False,
    )


def legend(axes: Axes, *, columns: int = 1) -> None:
    """Put the legend beside the axes, where it hides nothing."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", bbox_to_anchor=(1.005, 1.0), ncols=columns)
