"""How did the number that broke the step come about, from its source to the failure?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.figures import _style
from divergence_doctor.figures._axes import legend, name_columns
from divergence_doctor.figures._failure import failure
from divergence_doctor.figures._figure import Figure, columns
from divergence_doctor.figures._limits import LIMITS, Limits
from divergence_doctor.figures._text import count, number, power_of_two, quoted
from divergence_doctor.trace import schema

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from divergence_doctor.trace import Trace

#: With more links than this only the telling ones are named with their value.
_ALL_VALUES: Final = 13
_MOST_TICKS: Final = 9
#: Room beyond the outermost number for what has no place on a logarithmic axis: 0 and NaN, Inf.
_ROOM: Final = 0.09
#: Exponents between which numbers are drawn: those of float64.
_LEAST, _MOST = -1075.0, 1024.0
#: A limit of the dtype is drawn where the numbers come this near to it, in powers of two.
_NEAR: Final = 40.0


@final
@dataclass(frozen=True, slots=True)
class _Way:
    """The chain from its source on, as it is drawn."""

    names: tuple[str, ...]
    values: tuple[float, ...]
    followed: tuple[bool, ...]
    #: Least and largest exponent of each whole tensor; NaN where it holds no finite number but 0.
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    departed: int
    dtype: str
    ordinary: tuple[float, float]
    #: What failed, the last of the columns, and what it made: NaN, Inf or -Inf.
    failed: str
    made: float
    step: int

    @property
    def exponents(self) -> list[float]:
        """Base-2 exponent of each value; NaN for 0 and for what is not finite."""
        return [
            max(min(math.log2(abs(value)), _MOST), _LEAST)
            if value and math.isfinite(value)
            else math.nan
            for value in self.values
        ]


@final
class Chain(Figure):
    """The links of the chain of origin, source to the left, with the magnitude upwards."""

    name: ClassVar[str] = "chain"
    title: ClassVar[str] = "Where the number came from"
    order: ClassVar[int] = 15
    needs: ClassVar[frozenset[str]] = columns(
        "chain",
        "step op link what name layer index followed value departed dtype exponents "
        "ordinary_low ordinary_high",
    )

    def caption(self, trace: Trace) -> str:
        """Return the ends of the chain, and the link at which the number left the ordinary."""
        way = _way(trace)
        what = f"The way of the number that made {quoted(way.failed)} fail in step {way.step}"
        last = len(way.names) - 2
        said = [f"{what}, {count(last + 1, 'link')}, from {_told(way, 0)} to {_told(way, last)}"]
        if way.departed >= 0:
            said.append(f"it left the ordinary range at {_told(way, way.departed)}")
        return "; ".join(said) + "."

    def draw(self, trace: Trace, canvas: Canvas) -> None:
        """Draw the followed element of every link over the range of its whole tensor."""
        way = _way(trace)
        canvas.set_size_inches(_style.WIDTH, 5.2)
        canvas.suptitle(self.title)
        axes = canvas.subplots()
        axes.set_title(f"step {way.step}, from the source (left) to the failure (right)")
        axes.set_ylabel("magnitude (powers of two)")
        low, high = _bounds(way)
        _ordinary(axes, way, low, high)
        _tensors(axes, way)
        _elements(axes, way, low, high)
        _limits(axes, way, low, high)
        _values(axes, way, low, high)
        name_columns(axes, way.names, highlight=way.departed if way.departed >= 0 else None)
        _scale(axes, low, high, way)
        legend(axes)


def _told(way: _Way, place: int) -> str:
    value = number(way.values[place]) if way.followed[place] else "unknown"
    return f"{quoted(way.names[place])} = {value}"


def _way(trace: Trace) -> _Way:
    table = trace.table("chain")
    step, op = int(table["step"][-1]), int(table["op"][-1])
    rows = table.select(step=step, op=op)
    rows = rows.where(rows["link"] >= 0)
    order = np.argsort(-rows["link"], kind="stable")
    seen = [rows.row(int(index)) for index in order]
    spans = [_span(row["exponents"]) for row in seen]
    departed = next((place for place, row in enumerate(seen) if row["departed"]), -1)
    dtypes = [row["dtype"] for row in seen if row["dtype"] in LIMITS]
    nearest = seen[-1]
    failed = failure(trace)
    op_type = failed.op or "the step"
    what = f"derivative of {op_type}" if failed.derivative else op_type
    made = _made(trace)
    return _Way(
        names=(*(_name(row) for row in seen), what),
        values=(*(float(row["value"]) for row in seen), made),
        followed=(*(bool(row["followed"]) for row in seen), True),
        lows=(*(span[0] for span in spans), math.nan),
        highs=(*(span[1] for span in spans), math.nan),
        departed=departed,
        dtype=dtypes[-1] if dtypes else "",
        ordinary=(float(nearest["ordinary_low"]), float(nearest["ordinary_high"])),
        failed=what,
        made=made,
        step=step,
    )


def _made(trace: Trace) -> float:
    """Return what the failing op put out: NaN, Inf or -Inf."""
    events = trace.table("events")
    primary = events.where(events["primary"]) if "primary" in events else events
    for column, value in (("posinf", math.inf), ("neginf", -math.inf)):
        if len(primary) and column in primary and primary[column][0] > 0:
            return value
    return math.nan


def _name(row: dict[str, Any]) -> str:
    if row["what"] in {"batch", "variable"}:
        element = f"[{row['index']}]" if row["index"] else ""
        return f"{row['name']}{element}"
    if row["what"] == "constant":
        return "constant"
    return f"{row['name']} {row['layer']}" if row["layer"] else str(row["name"])


def _span(histogram: Any) -> tuple[float, float]:
    bins = np.flatnonzero(np.asarray(histogram) > 0)
    if not bins.size:
        return math.nan, math.nan
    return float(bins[0] + schema.EXPONENT_MIN), float(bins[-1] + schema.EXPONENT_MIN + 1)


def _bounds(way: _Way) -> tuple[float, float]:
    """Return the exponents between which the axis runs: all numbers, and a limit they come near."""
    there = [
        exponent for exponent in (*way.exponents, *way.lows, *way.highs) if math.isfinite(exponent)
    ]
    there += [math.log2(edge) for edge in way.ordinary if edge > 0 and math.isfinite(edge)]
    low, high = (min(there), max(there)) if there else (-8.0, 8.0)
    limits = LIMITS.get(way.dtype)
    if limits is not None:
        largest = max((e for e in way.exponents if math.isfinite(e)), default=0.0)
        if largest > limits.largest - _NEAR:
            high = max(high, limits.largest)
        smallest = min((e for e in way.exponents if math.isfinite(e)), default=0.0)
        if smallest < limits.normal + _NEAR:
            low = min(low, limits.subnormal)
    around = max((16.0 - (high - low)) / 2, 0.0)
    return math.floor(low - around), math.ceil(high + around)


def _ordinary(axes: Axes, way: _Way, low: float, high: float) -> None:
    """Shade what is ordinary."""
    span = high - low
    least, most = way.ordinary
    bottom = math.log2(least) if least > 0 else low - 4 * span
    top = math.log2(most) if math.isfinite(most) and most > 0 else high
    if least <= 0 and not math.isfinite(most):
        return
    edge = f"up to {number(most)}" if math.isfinite(most) else f"from {number(least)} on"
    axes.axhspan(bottom, top, color=_style.GREEN, alpha=0.10, lw=0, zorder=0,
                 label=f"ordinary, {edge}")  # fmt: skip


def _tensors(axes: Axes, way: _Way) -> None:
    """Draw the range of each whole tensor behind its element."""
    there = [i for i, low in enumerate(way.lows) if math.isfinite(low)]
    if there:
        axes.vlines(
            there,
            [way.lows[i] for i in there],
            [way.highs[i] for i in there],
            color=_style.RAMP[1],
            lw=6 if len(way.names) <= 40 else 2,
            alpha=0.55,
            zorder=1,
            label="range of the whole tensor",
        )


def _height(way: _Way, place: int, low: float, high: float) -> float:
    """Return where a value is drawn: 0 below the axis' numbers, what is not finite above them."""
    value, exponent = way.values[place], way.exponents[place]
    if math.isfinite(exponent):
        return exponent
    room = _ROOM * (high - low)
    if not way.followed[place]:
        return math.nan
    return low - room if value == 0 else high + room


def _elements(axes: Axes, way: _Way, low: float, high: float) -> None:
    heights = [_height(way, place, low, high) for place in range(len(way.names))]
    few = len(way.names) <= 40
    axes.plot(
        range(len(heights)), heights, color=_style.BLUE, lw=1.4, marker="o",
        markersize=6 if few else 2.5, zorder=3, label="the element that is followed",
    )  # fmt: skip
    axes.plot(
        [len(heights) - 1], heights[-1:], linestyle="none", marker="X", markersize=10,
        color=_style.NOT_FINITE, zorder=4, label="the failure",
    )  # fmt: skip
    if way.departed >= 0:
        axes.plot(
            [way.departed], [heights[way.departed]], linestyle="none", marker="D", markersize=10,
            color=_style.ORANGE, markeredgecolor=_style.INK, zorder=4,
            label="left the ordinary range",
        )  # fmt: skip


def _limits(axes: Axes, way: _Way, low: float, high: float) -> None:
    """Draw the limits of the dtype that lie on the axis."""
    limits = LIMITS.get(way.dtype)
    if limits is None:
        return
    for exponent, text in _lines(limits, way.dtype):
        if low <= exponent <= high:
            axes.axhline(exponent, color=_style.NOT_FINITE, lw=1.0, ls="--", zorder=2)
            axes.annotate(
                text, (0.005, exponent), xycoords=("axes fraction", "data"), xytext=(0, 2),
                textcoords="offset points", ha="left", va="bottom", fontsize=8,
                color=_style.NOT_FINITE_WORDS,
            )  # fmt: skip


def _lines(limits: Limits, dtype: str) -> tuple[tuple[float, str], ...]:
    return (
        (limits.largest, f"largest {dtype}, {limits.largest_text}"),
        (limits.normal, f"smallest normal {dtype}, {power_of_two(limits.normal)}"),
        (limits.subnormal, f"smallest {dtype}, {power_of_two(limits.subnormal)}"),
    )


def _values(axes: Axes, way: _Way, low: float, high: float) -> None:
    """Write values beside their points: all where there is room, else the telling ones."""
    columns = len(way.names)
    shown = list(range(columns))
    if columns > _ALL_VALUES:
        apart = columns / _ALL_VALUES
        shown = []
        for place in (columns - 1, way.departed, 0, columns - 2):
            if place >= 0 and all(abs(place - other) >= apart for other in shown):
                shown.append(place)
    heights = [_height(way, place, low, high) for place in range(columns)]
    for place in shown:
        if math.isnan(heights[place]):
            continue
        before = heights[place - 1] if place else heights[place]
        after = heights[place + 1] if place + 1 < columns else heights[place]
        # On the side from which the line does not come or go.
        above = not (max(before, after) > heights[place] >= min(before, after) or (
            before > heights[place] and after > heights[place]))  # fmt: skip
        above = above if heights[place] > low else True
        axes.annotate(
            number(way.values[place]), (place, heights[place]), xytext=(0, 9 if above else -9),
            textcoords="offset points", va="bottom" if above else "top", fontsize=8.5, zorder=5,
            ha="left" if place == 0 else "center",
            bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75},
        )  # fmt: skip


def _scale(axes: Axes, low: float, high: float, way: _Way) -> None:
    """Set ticks at powers of two, and name the rows of 0 and of what is not finite."""
    span = high - low
    room = _ROOM * span
    stride = max(1, math.ceil(span / _MOST_TICKS))
    stride = next((nice for nice in (1, 2, 4, 8, 16, 32, 64, 128, 256) if nice >= stride), 512)
    first = math.ceil(low / stride) * stride
    ticks = [float(at) for at in range(first, math.floor(high) + 1, stride)]
    labels = [power_of_two(at) for at in ticks]
    zeros = any(f and v == 0 for f, v in zip(way.followed, way.values, strict=True))
    bad = any(f and not math.isfinite(v) for f, v in zip(way.followed, way.values, strict=True))
    if zeros:
        keep = [i for i, at in enumerate(ticks) if at - (low - room) > 0.04 * span]
        ticks, labels = [ticks[i] for i in keep], [labels[i] for i in keep]
        ticks, labels = [low - room, *ticks], ["0", *labels]
    if bad:
        keep = [i for i, at in enumerate(ticks) if (high + room) - at > 0.04 * span]
        ticks, labels = [ticks[i] for i in keep], [labels[i] for i in keep]
        ticks, labels = [*ticks, high + room], [*labels, "not finite"]
    axes.set_yticks(ticks, labels)
    axes.set_ylim(low - room * (1.9 if zeros else 1.0), high + room * (1.9 if bad else 1.0))
