"""How far from the end of its dtype is every layer, forward and backward? The headroom in bits."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.figures import _style
from divergence_doctor.figures._axes import band, mark_below, mark_not_finite, name_columns
from divergence_doctor.figures._failure import failure, step_to_show
from divergence_doctor.figures._figure import Figure
from divergence_doctor.figures._limits import LIMITS
from divergence_doctor.figures._spectrum import NEEDS, Spectrum, spectra_of
from divergence_doctor.figures._text import count, number, power_of_two, quoted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from numpy.typing import ArrayLike, NDArray

    from divergence_doctor.trace import Trace

#: Limits are drawn of the dtypes that occur, and of these, into which a model may be moved.
_COMPARED: Final = ("float16", "bfloat16", "float32")
#: A limit this many binades beyond what occurs is still drawn; farther ones are named at the edge.
_NEAR: Final = 24.0
#: Fewer binades than this would show noise as hills.
_LEAST_HEIGHT: Final = 16.0
_MOST_TICKS: Final = 8
_STRIDES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
#: With more columns than this, points on a line hide each other.
_MOST_POINTS: Final = 60
#: Exponents between which numbers are drawn: those of float64.
_LEAST, _MOST = -1075.0, 1024.0
#: Height of a line of small words, as a part of the axis.
_LINE: Final = 0.065
#: Room at the top for the marks of what is not finite, and at the bottom for those of zero.
_ROOM: Final = 0.07
_MARKS: Final = 0.12
#: Instead of a panel in which nothing could be drawn.
_EMPTY: Final = ("nothing that was put out is finite", "nothing that came back is finite")
#: A limit is named at one end of its line; so much of the panel its words take.
_NAMED: Final = 0.4


@final
class Depth(Figure):
    """Largest and typical magnitude of every layer's output and gradient, with the limits."""

    name: ClassVar[str] = "depth"
    title: ClassVar[str] = "Headroom through the network"
    order: ClassVar[int] = 17
    needs: ClassVar[frozenset[str]] = NEEDS

    def suits(self, trace: Trace) -> bool:
        """Say whether there is depth: two columns at least, and a finite number in one of them."""
        if not super().suits(trace):
            return False
        _, panels = _read(trace)
        return len(panels[0].columns) > 1 and any(spectrum.has_finite() for spectrum in panels)

    def caption(self, trace: Trace) -> str:
        """Return the layer with the least headroom in each direction, and what is too small."""
        step, panels = _read(trace)
        said = [f"Magnitudes by layer in step {step}, in order of execution"]
        for spectrum, word in zip(panels, ("forward", "backward"), strict=False):
            said += _least_headroom(spectrum, word)
        return "; ".join(said) + "."

    def draw(self, trace: Trace, canvas: Canvas) -> None:
        """Draw a panel for the outputs and, where gradients came back, one for those."""
        step, read = _read(trace)
        drawn = [place for place, spectrum in enumerate(read) if spectrum.has_finite()]
        panels = [read[place] for place in drawn]
        first = int(trace.table("activations")["step"].min())
        earlier = _spectra(trace, first) if first < step else ()
        canvas.set_size_inches(_style.WIDTH, 1.2 + 2.9 * len(panels))
        canvas.suptitle(self.title)
        grid = canvas.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        where = failure(trace)
        column, names = read[0].highlight(where), read[0].names()
        titles = (
            f"forward: what each layer put out, step {step}",
            f"backward: the gradient that came back to each layer, step {step}",
        )
        for axes, spectrum, place in zip(grid, panels, drawn, strict=True):
            empty = "" if len(panels) == len(read) else f"   ({_EMPTY[1 - place]})"
            axes.set_title(titles[place] + empty)
            before = earlier[place] if place < len(earlier) else None
            _panel(axes, spectrum, before, first)
            if column is not None:
                band(axes, column, columns=len(names))
        name_columns(grid[-1], names, highlight=column)
        _legend(canvas, grid)


def _read(trace: Trace) -> tuple[int, tuple[Spectrum, ...]]:
    step = step_to_show(trace, trace.table("activations"))
    return step, _spectra(trace, step)


def _spectra(trace: Trace, step: int) -> tuple[Spectrum, ...]:
    forward, backward = spectra_of(trace, step)
    return (forward, backward) if backward.cells else (forward,)


def _least_headroom(spectrum: Spectrum, word: str) -> list[str]:
    """Return in words which column comes nearest to the end of its dtype, and what underflows."""
    known = {c: cell for c, cell in spectrum.cells.items() if cell.dtype in LIMITS}
    bits = {
        c: LIMITS[cell.dtype].largest - math.log2(cell.absmax)
        for c, cell in known.items()
        if cell.absmax > 0
    }
    said = []
    if bits:
        nearest = min(bits, key=lambda column: bits[column])
        cell = known[nearest]
        said.append(
            f"{word} the least headroom is {bits[nearest]:.1f} bits of {cell.dtype}, "
            f"at {quoted(spectrum.names()[nearest])} (largest {number(cell.absmax)})"
        )
    small = [c for c, cell in known.items() if 0 < cell.rms < 2.0 ** LIMITS[cell.dtype].normal]
    if small:
        said.append(f"{word} the RMS of {count(len(small), 'tensor')} is below the normal numbers")
    bad = spectrum.bad()
    if bad:
        said.append(f"{word} {count(len(bad), 'tensor')} not finite")
    return said


def _log2(values: list[float]) -> NDArray[np.float64]:
    """Return base-2 logarithms; NaN (a gap) for what has none."""
    wide = np.asarray(values, dtype=np.float64)
    there = np.isfinite(wide) & (wide > 0)
    found = np.log2(wide, where=there, out=np.full(wide.shape, np.nan))
    return np.clip(found, _LEAST, _MOST)


def _lines(spectrum: Spectrum) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return exponents of the largest magnitude and of the RMS, by column."""
    cells = [spectrum.cells.get(column) for column in range(len(spectrum.columns))]
    largest = _log2([math.nan if cell is None else cell.absmax for cell in cells])
    typical = _log2([math.nan if cell is None else cell.rms for cell in cells])
    return largest, typical


def _panel(axes: Axes, spectrum: Spectrum, before: Spectrum | None, first: int) -> None:
    largest, typical = _lines(spectrum)
    earlier = _aligned(spectrum, before)
    low, high = _bounds(np.concatenate([largest, typical, earlier]), spectrum)
    few = len(largest) <= _MOST_POINTS
    at = np.arange(len(largest))
    if np.isfinite(earlier).any():
        axes.plot(
            at, earlier, color=_style.FAINT, lw=1.2, ls="--", zorder=2.5,
            marker="o" if few else "", markersize=2.5, label=f"largest, step {first}",
        )  # fmt: skip
    axes.plot(
        at, typical, color=_style.SKY, lw=1.8, marker="s" if few else "", markersize=4,
        label="typical (RMS)", zorder=3,
    )  # fmt: skip
    axes.plot(
        at, largest, color=_style.BLUE, lw=2.4, marker="o" if few else "", markersize=5,
        label="largest magnitude", zorder=3.5,
    )  # fmt: skip
    words = _limits(axes, spectrum, [largest, typical, earlier], low, high)
    _scale(axes, spectrum, low, max(high, words))
    mark_not_finite(axes, sorted(spectrum.bad()))
    zeros = [c for c, cell in spectrum.cells.items() if cell.absmax == 0 and not cell.nonfinite]
    mark_below(axes, sorted(zeros), label="all zero")


def _aligned(spectrum: Spectrum, before: Spectrum | None) -> NDArray[np.float64]:
    """Return the largest magnitudes of an earlier step for the columns of this one."""
    if before is None:
        return np.full(len(spectrum.columns), np.nan)
    there = {before.columns[column]: cell for column, cell in before.cells.items()}
    cells = [there.get(key) for key in spectrum.columns]
    return _log2([math.nan if cell is None else cell.absmax for cell in cells])


def _bounds(exponents: NDArray[np.float64], spectrum: Spectrum) -> tuple[float, float]:
    """Return the exponents that occur, widened to the limits that are near."""
    there = exponents[np.isfinite(exponents)]
    low, high = (float(there.min()), float(there.max())) if there.size else (-8.0, 8.0)
    least, most = low, high
    for dtype in (*spectrum.known(), *_COMPARED):
        limits = LIMITS[dtype]
        if 0 <= limits.largest - most <= _NEAR:
            high = max(high, limits.largest)
        for limit in (limits.normal, limits.subnormal):
            if 0 <= least - limit <= _NEAR / 2:
                low = min(low, limit)
    missing = max(0.0, _LEAST_HEIGHT - (high - low)) / 2
    return low - missing - 1.0, high + missing + 1.0


def _limits(
    axes: Axes, spectrum: Spectrum, lines: list[NDArray[np.float64]], low: float, high: float
) -> float:
    """Draw the limits that lie in view: those of the tensors' own dtypes stand out.

    Returns:
        The height up to which their words reach.
    """
    own = spectrum.known()
    taken: list[float] = []
    gap = _LINE * (high - low)
    for dtype in dict.fromkeys((*own, *_COMPARED)):
        limits = LIMITS[dtype]
        strong = dtype in own
        for exponent, text in (
            (limits.largest, f"{dtype} overflows beyond {limits.largest_text}"),
            (limits.normal, f"{dtype} subnormal below {power_of_two(limits.normal)}"),
            (limits.subnormal, f"{dtype} is zero below {power_of_two(limits.subnormal)}"),
        ):
            # Limits that two dtypes share (bfloat16 and float32) are named once, the own one first.
            if not low <= exponent <= high or any(abs(exponent - at) < gap for at in taken):
                continue
            taken.append(exponent)
            left = _is_clear_on_the_left(lines, exponent + gap / 2)
            style = ":" if not strong else "-" if exponent == limits.largest else "--"
            _limit(axes, exponent, text if strong else f"({text})", style=style, left=left)
    return max(taken, default=low) + gap


def _is_clear_on_the_left(lines: list[NDArray[np.float64]], height: float) -> bool:
    """Say at which end of a limit its words stand farther from the lines."""
    columns = len(lines[0])
    part = max(1, round(_NAMED * columns))

    def distance(end: slice) -> float:
        near = np.concatenate([np.abs(line[end] - height) for line in lines])
        return float(np.min(near, where=np.isfinite(near), initial=math.inf))

    return distance(slice(part)) >= distance(slice(columns - part, columns))


def _limit(axes: Axes, exponent: float, text: str, *, style: str, left: bool) -> None:
    """Draw a limit: dotted and grey that of another dtype, a full line where the own one ends."""
    strong = style != ":"
    colour = _style.NOT_FINITE if strong else _style.FAINT
    axes.axhline(exponent, color=colour, lw=1.5 if strong else 0.9, ls=style, zorder=2)
    ink = _style.NOT_FINITE_WORDS if strong else colour
    axes.annotate(
        text, (0.005 if left else 0.995, exponent), xycoords=("axes fraction", "data"),
        xytext=(0, 2), textcoords="offset points", fontsize=8, color=ink, va="bottom",
        ha="left" if left else "right", zorder=2.2,
    )  # fmt: skip


def _scale(axes: Axes, spectrum: Spectrum, low: float, high: float) -> None:
    """Tick powers of two on the left and, of the narrowest dtype, the headroom on the right."""
    room = _ROOM * (high - low)
    stride = next(s for s in _STRIDES if (high - low) / s <= _MOST_TICKS)
    ticks = _multiples(low, high, stride)
    axes.set_yticks(ticks, [power_of_two(tick) for tick in ticks])
    axes.set_ylim(low - room, high + (_MARKS * (high - low) if spectrum.bad() else room))
    axes.set_ylabel("magnitude |x|")
    narrowest = spectrum.narrowest()
    if not narrowest:
        return
    largest = LIMITS[narrowest].largest

    def headroom(exponent: ArrayLike) -> NDArray[np.float64]:
        return largest - np.asarray(exponent, dtype=np.float64)

    beside = axes.secondary_yaxis("right", functions=(headroom, headroom))  # its own inverse
    bits = _multiples(largest - high, largest - low, stride)
    beside.set_yticks(bits, [f"{bit:.0f}" for bit in bits])
    beside.set_ylabel(f"headroom of {narrowest}, bits")


def _multiples(low: float, high: float, stride: int) -> list[float]:
    return [
        float(n * stride) for n in range(math.ceil(low / stride), math.floor(high / stride) + 1)
    ]


def _legend(canvas: Canvas, grid: NDArray[np.object_]) -> None:
    """Put one legend for all panels beside them, each thing in it once."""
    named: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    canvas.legend(list(named.values()), list(named), loc="outside right upper")
