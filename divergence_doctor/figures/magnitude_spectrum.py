"""Where in the network do magnitudes run towards the end of the dtype, forward and backward?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, final

import numpy as np

from divergence_doctor.figures import _style
from divergence_doctor.figures._axes import band, name_columns
from divergence_doctor.figures._failure import Failure, failure, step_to_show
from divergence_doctor.figures._figure import Figure
from divergence_doctor.figures._limits import LIMITS
from divergence_doctor.figures._spectrum import NEEDS, Spectrum, column_name, spectra_of
from divergence_doctor.figures._text import count, drawable, power_of_two, quoted, rounded
from divergence_doctor.trace.schema import EXPONENT_MAX, EXPONENT_MIN

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure as Canvas
    from matplotlib.image import AxesImage

    from divergence_doctor.trace import Trace

#: A limit this many binades beyond what occurs is still drawn; farther ones are named at the edge.
_NEAR: Final = 24
#: Fewer binades than this would blow single values up to blocks.
_LEAST_HEIGHT: Final = 16
#: Shares below this are drawn as pale as this: one value in ten thousand.
_PALEST: Final = 1e-4
#: So many marks can carry their counts side by side.
_MOST_COUNTS: Final = 18
#: Characters of the layer and the op that leave room for the panel's own title.
_MOST_TITLE: Final = 30
_MOST_TICKS: Final = 8


@final
@dataclass(frozen=True, slots=True)
class _View:
    """The part of the exponents that a panel shows; strips for zeros and NaN lie outside."""

    low: int
    high: int

    @property
    def strip(self) -> float:
        """Height of the strip for zeros (below) and of that for NaN and Inf (above)."""
        return 0.075 * (self.high - self.low)


@final
@dataclass(frozen=True, slots=True)
class _Line:
    """One limit of one dtype, where columns of that dtype stand."""

    at: float
    text: str
    dtype: str
    overflow: bool = False


@final
class MagnitudeSpectrum(Figure):
    """Base-2 exponents of every layer's output and of the gradient that came back to it."""

    name: ClassVar[str] = "magnitude-spectrum"
    title: ClassVar[str] = "Magnitudes through the network"
    order: ClassVar[int] = 10
    needs: ClassVar[frozenset[str]] = NEEDS

    def caption(self, trace: Trace) -> str:
        """Return where magnitudes start and end, where they overflow, and what came back."""
        step, forward, backward = _read(trace)
        tensors = count(len(forward.columns), "tensor")
        said = [f"Magnitudes through the network in step {step}, {tensors} in order of execution"]
        spans = [
            f"{word} between {power_of_two(span[0])} and {power_of_two(span[1] + 1)}"
            for word, span in (("forward", forward.span()), ("backward", backward.span()))
            if span is not None
        ]
        said += spans
        narrowest = forward.narrowest()
        if narrowest:
            largest = power_of_two(LIMITS[narrowest].largest)
            said.append(f"{narrowest} overflows at {largest}")
        said.append(_bad_in_words(forward, backward))
        if backward.cells and not backward.has_finite():
            said.append("nothing that came back is finite")
        return "; ".join(said) + "."

    def draw(self, trace: Trace, canvas: Canvas) -> None:
        """Draw one panel for the forward pass and, where numbers came back, one for gradients."""
        step, forward, backward = _read(trace)
        panels = [(forward, f"Forward: what each layer put out, step {step}")]
        if backward.has_finite():
            panels.append((backward, "Backward: the gradient that came back to each layer"))
        views = [_view(spectrum) for spectrum, _ in panels]
        canvas.set_size_inches(_style.WIDTH, 1.3 + 3.1 * len(panels))
        canvas.suptitle(self.title)
        grid = canvas.subplots(len(panels), 1, sharex=True, squeeze=False)
        where = failure(trace)
        column = forward.highlight(where)
        names = forward.names()
        image = None
        for axes, (spectrum, title), view in zip(grid[:, 0], panels, views, strict=True):
            axes.set_title(title + _beyond(spectrum))
            image = _panel(axes, spectrum, view)
            if column is not None:
                band(axes, column, columns=len(names))
        if column is not None:
            _say_where(grid[0, 0], where, forward, column)
        name_columns(grid[-1, 0], names, highlight=column)
        if image is not None:
            bar = canvas.colorbar(image, ax=list(grid[:, 0]), shrink=0.5, aspect=22, pad=0.01)
            _label_shares(bar)


def _read(trace: Trace) -> tuple[int, Spectrum, Spectrum]:
    step = step_to_show(trace, trace.table("activations"))
    return step, *spectra_of(trace, step)


def _beyond(spectrum: Spectrum) -> str:
    """Return a note where float64 values lie beyond the bins: the outermost ones count them."""
    span = spectrum.span()
    outside = span is not None and (span[0] == EXPONENT_MIN or span[1] == EXPONENT_MAX)
    return " (outermost row: and beyond)" if outside else ""


def _bad_in_words(forward: Spectrum, backward: Spectrum) -> str:
    if first := forward.bad():
        column, cell = next(iter(sorted(first.items())))
        name = quoted(column_name(forward.columns[column]))
        return (
            f"NaN or Inf in {count(len(first), 'tensor')}, first in {name} "
            f"({cell.nonfinite:,} of {cell.size:,} values)"
        )
    if last := backward.bad():
        name = quoted(column_name(backward.columns[max(last)]))
        return (
            f"the outputs are finite; NaN or Inf in {count(len(last), 'gradient')}, first in the "
            f"one that came back to {name}"
        )
    return "all values are finite"


def _say_where(axes: Axes, where: Failure, forward: Spectrum, column: int) -> None:
    of = "derivative of " if where.derivative else ""
    op = f"({of}{drawable(where.op)})" if where.op else ""
    name = drawable(column_name(forward.columns[column]))
    # The other title stands on the same line.
    apart = "\n" if len(name) + len(op) > _MOST_TITLE else " "
    axes.set_title(
        f"first not finite: {name}{apart}{op}".rstrip(),
        loc="right",
        color=_style.NOT_FINITE_WORDS,
        fontweight="bold",
        fontsize=9.5,
    )


def _view(spectrum: Spectrum) -> _View:
    """Return the exponents that occur, widened to the limits that are near."""
    span = spectrum.span() or (-8, 7)
    low, high = span[0] - 1, span[1] + 2
    for limits in (LIMITS[dtype] for dtype in spectrum.known()):
        if limits.largest - high <= _NEAR:
            high = max(high, math.ceil(limits.largest) + 1)
        for limit in (limits.normal, limits.subnormal):
            if low - limit <= _NEAR:
                low = min(low, math.floor(limit) - 1)
    missing = max(0, _LEAST_HEIGHT - (high - low))
    return _View(low - math.ceil(missing / 2), high + missing // 2)


def _panel(axes: Axes, spectrum: Spectrum, view: _View) -> AxesImage:
    image = _cells(axes, spectrum, view)
    bad = spectrum.bad()
    top = view.high + (1.6 * view.strip if bad else 0.3)
    axes.set_ylim(view.low - 1.6 * view.strip, top)
    _limit_lines(axes, spectrum, view)
    if bad:
        _bad_marks(axes, spectrum, view)
    _exponent_ticks(axes, view, has_bad=bool(bad))
    axes.set_ylabel("magnitude |x|")
    axes.grid(visible=False, axis="x")
    return image


def _cells(axes: Axes, spectrum: Spectrum, view: _View) -> AxesImage:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("share", _style.RAMP)
    share = np.zeros((view.high - view.low, len(spectrum.columns)))
    every = spectrum.share()
    first, last = max(view.low, EXPONENT_MIN), min(view.high - 1, EXPONENT_MAX)
    share[first - view.low : last - view.low + 1] = every[
        first - EXPONENT_MIN : last - EXPONENT_MIN + 1
    ]
    width = len(spectrum.columns) - 0.5
    strip = (view.low - 1.35 * view.strip, view.low - 0.35 * view.strip)
    _image(axes, spectrum.zeros()[None, :], (-0.5, width, *strip), colours)
    return _image(axes, share, (-0.5, width, view.low, view.high), colours)


def _image(
    axes: Axes,
    share: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    extent: tuple[float, float, float, float],
    colours: Colormap,
) -> AxesImage:
    shown = np.log10(
        np.clip(share, _PALEST, 1.0), where=share > 0, out=np.full(share.shape, np.nan)
    )
    return axes.imshow(
        shown,
        extent=extent,
        origin="lower",
        aspect="auto",
        interpolation="none",
        cmap=colours,
        vmin=math.log10(_PALEST),
        vmax=0.0,
        zorder=2,
    )


def _lines(dtypes: Iterable[str]) -> Iterator[_Line]:
    for dtype in dtypes:
        limits = LIMITS[dtype]
        yield _Line(limits.largest, _overflows(dtype), dtype, overflow=True)
        low, zero = power_of_two(limits.normal), power_of_two(limits.subnormal)
        yield _Line(limits.normal, f"{dtype} subnormal\nbelow {low}", dtype)
        yield _Line(limits.subnormal, f"{dtype} is zero\nbelow {zero}", dtype)


def _overflows(dtype: str) -> str:
    return f"{dtype} overflows\nbeyond {LIMITS[dtype].largest_text}"


def _limit_lines(axes: Axes, spectrum: Spectrum, view: _View) -> None:
    """Draw the limits within view over the columns of their dtype, each named on the right."""
    within = [line for line in _lines(spectrum.known()) if view.low <= line.at <= view.high]
    for line in within:
        colour = _style.NOT_FINITE if line.overflow else _style.INK
        for start, end in _runs(spectrum, line.dtype):
            axes.hlines(
                line.at,
                start - 0.5,
                end + 0.5,
                colors=colour,
                linestyles="-" if line.overflow else "--",
                linewidth=1.8 if line.overflow else 1.1,
                zorder=3,
            )
    _name_lines(axes, within, view)
    if not any(line.overflow for line in within):
        _name_what_is_far(axes, spectrum, view)


def _runs(spectrum: Spectrum, dtype: str) -> Iterator[tuple[int, int]]:
    """Yield the first and the last column of every run of neighbours of one dtype.

    Columns without a tensor belong to the run: a limit holds there as well.
    """
    dtypes = [
        spectrum.cells[c].dtype if c in spectrum.cells else None
        for c in range(len(spectrum.columns))
    ]
    start: int | None = None
    for column, here in enumerate(dtypes):
        if here == dtype and start is None:
            start = column
        elif start is not None and here not in {dtype, None}:
            yield start, column - 1
            start = None
    if start is not None:
        yield start, len(dtypes) - 1


def _name_lines(axes: Axes, lines: list[_Line], view: _View) -> None:
    """Name lines at the right edge from top to bottom, without one name covering another."""
    gap, lowest = 0.115 * (view.high - view.low + 2 * view.strip), math.inf
    for line in sorted(lines, key=lambda line: -line.at):
        lowest = min(line.at, lowest - gap)
        _name_at(axes, lowest, line.text, _style.NOT_FINITE_WORDS if line.overflow else _style.INK)


def _name_what_is_far(axes: Axes, spectrum: Spectrum, view: _View) -> None:
    nearest = spectrum.narrowest()
    if nearest:
        _name_at(axes, view.high, f"↑ {_overflows(nearest)}", _style.FAINT)


def _name_at(axes: Axes, height: float, text: str, colour: str) -> None:
    axes.text(
        1.006,
        height,
        text,
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=8,
        linespacing=1.05,
        color=colour,
    )


def _bad_marks(axes: Axes, spectrum: Spectrum, view: _View) -> None:
    bad = sorted(spectrum.bad().items())
    height = view.high + 0.8 * view.strip
    width = 300.0 / len(spectrum.columns)
    axes.scatter(
        [column for column, _ in bad],
        [height] * len(bad),
        marker="^",
        s=min(55.0, max(9.0, width**2 / 4)),
        color=_style.NOT_FINITE,
        zorder=5,
        label="not finite",
    )
    if len(spectrum.columns) > _MOST_COUNTS:
        return
    for column, cell in bad:
        axes.annotate(
            "all" if cell.nonfinite >= cell.size else f"{cell.nonfinite:,}",
            (column, height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=_style.NOT_FINITE_WORDS,
            zorder=5,
        )


def _exponent_ticks(axes: Axes, view: _View, *, has_bad: bool) -> None:
    stride = next(
        s for s in (4, 5, 10, 20, 40, 50, 100) if (view.high - view.low) / s <= _MOST_TICKS
    )
    clear = 0.6 * view.strip
    first = -(-math.ceil(view.low + clear) // stride) * stride
    exponents = range(first, math.floor(view.high - clear if has_bad else view.high) + 1, stride)
    ticks: list[float] = [view.low - 0.85 * view.strip]
    labels = ["zero"]
    for exponent in exponents:
        ticks.append(exponent)
        labels.append(f"{power_of_two(exponent)} ≈ {rounded(2.0**exponent)}")
    if has_bad:
        ticks.append(view.high + 0.8 * view.strip)
        labels.append("NaN, Inf")
    axes.set_yticks(ticks, labels)
    if has_bad:
        axes.get_yticklabels()[-1].set(color=_style.NOT_FINITE_WORDS, fontweight="bold")
        axes.axhline(view.high, color=_style.FAINT, linewidth=0.6)
    axes.axhline(view.low, color=_style.FAINT, linewidth=0.6)


def _label_shares(bar: Colorbar) -> None:
    bar.set_label("share of the tensor's values")
    bar.set_ticks([-4, -3, -2, -1, 0], labels=["0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
    bar.outline.set_visible(False)
