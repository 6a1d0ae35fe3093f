"""How did training go up to the crash? What the flight recorder kept, and what came of it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.figures import _style
from divergence_doctor.figures._axes import (
    bounded,
    legend,
    mark_not_finite,
    positive,
    value_scale,
)
from divergence_doctor.figures._figure import Figure, columns
from divergence_doctor.figures._text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from numpy.typing import NDArray

    from divergence_doctor.trace import Trace

#: Up to so many steps each is marked by a point.
_POINTS: Final = 60


@final
@dataclass(frozen=True, slots=True)
class _Curve:
    """One quantity over the training steps: where it comes from, and how it looks."""

    source: str
    column: str
    label: str
    colour: str
    style: dict[str, Any]


_RECORDED: Final = _Curve("recorded", "loss", "as logged", _style.BLUE, {"linewidth": 2.4})
_ROLLED: Final = _Curve(
    "rolled", "loss", "run again", _style.ORANGE,
    {"linestyle": "none", "marker": "o", "markersize": 8, "markerfacecolor": "none"},
)  # fmt: skip
_RATE: Final = _Curve(
    "recorded", "learning_rate", "learning rate", _style.GREEN, {"drawstyle": "steps-mid"}
)
_SCALE: Final = _Curve(
    "recorded", "loss_scale", "loss scale", _style.SKY, {"drawstyle": "steps-mid"}
)
_NORM: Final = _Curve(
    "watched", "gradient_norm", "gradient norm", _style.PURPLE, {"marker": "o", "markersize": 5}
)
_PANELS: Final = (
    ("loss", (_RECORDED, _ROLLED)),
    ("learning rate", (_RATE,)),
    ("loss scale", (_SCALE,)),
    ("gradient norm", (_NORM,)),
)


@final
class History(Figure):
    """Loss, learning rate, loss scale and gradient norm of the training steps up to the crash."""

    name: ClassVar[str] = "history"
    title: ClassVar[str] = "Up to the crash"
    order: ClassVar[int] = 12
    needs: ClassVar[frozenset[str]] = columns(
        "history", "step source loss measured learning_rate loss_scale gradient_norm"
    )

    def suits(self, trace: Trace) -> bool:
        """Say whether two training steps were recorded: a single number needs no picture."""
        return super().suits(trace) and len(_values(trace, _RECORDED)[0]) > 1

    def caption(self, trace: Trace) -> str:
        """Return the first and the last logged loss, the failing step, and the gradient norms."""
        steps, losses = _values(trace, _RECORDED)
        said = f"Training steps {steps[0]} to {steps[-1]}: the logged loss goes from"
        said += f" {number(float(losses[0]))} to {number(float(losses[-1]))}"
        at, norms = _values(trace, _NORM)
        known = np.flatnonzero(np.isfinite(norms))
        if known.size > 1:
            first, last = known[0], known[-1]
            said += f"; the gradient norm from {number(float(norms[first]))} at step {at[first]}"
            said += f" to {number(float(norms[last]))} at step {at[last]}"
        failing = _failing(trace)
        return said + (f"; step {failing} went wrong first." if failing is not None else ".")

    def draw(self, trace: Trace, canvas: Canvas) -> None:
        """Draw a panel for each quantity that is known, all over the same training steps."""
        panels = [
            (name, curves)
            for name, curves in _PANELS
            if any(np.isfinite(_values(trace, curve)[1]).any() for curve in curves)
        ] or [_PANELS[0]]
        heights = [2.0, *(1.0 for _ in panels[1:])]
        canvas.set_size_inches(_style.WIDTH, 1.6 + 1.35 * sum(heights))
        canvas.suptitle(self.title)
        axes = canvas.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[
            :, 0
        ]
        for one, (name, curves) in zip(axes, panels, strict=True):
            _panel(one, trace, name, curves)
            _mark_failing(one, _failing(trace))
            legend(one)
        _number_steps(axes[-1], trace.table("history")["step"])


def _values(trace: Trace, curve: _Curve) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the training steps, in order, and a curve's value at each."""
    table = trace.table("history").select(source=curve.source)
    if curve.column == "loss":
        table = table.where(table["measured"])
    order = np.argsort(table["step"], kind="stable")
    return table["step"][order], table[curve.column][order]


def _failing(trace: Trace) -> int | None:
    """Return the training step that went wrong first, or where the recorder saw it."""
    told = trace.context.get("recorded")
    if not isinstance(told, dict):
        return None
    for key in ("first_bad", "failing"):
        step = told.get(key)
        if isinstance(step, int) and step >= 0:
            return step
    return None


def _panel(axes: Axes, trace: Trace, name: str, curves: tuple[_Curve, ...]) -> None:
    every = []
    for curve in curves:
        steps, values = _values(trace, curve)
        above_zero = bool((values[np.isfinite(values)] > 0).all())
        few = {"marker": "o", "markersize": 3.5} if len(steps) <= _POINTS else {}
        axes.plot(
            steps,
            positive(values) if above_zero else bounded(values),
            label=curve.label,
            color=curve.colour,
            **{**few, **curve.style},
        )
        every.append(values)
        if curve.column == "loss" and curve.source == "recorded":
            mark_not_finite(axes, steps[~np.isfinite(values)], label="not finite")
    scale = value_scale(axes, np.concatenate(every))
    axes.set_ylabel(name if scale == "linear" else f"{name}\n({scale} scale)")


def _number_steps(axes: Axes, steps: NDArray[np.int64]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    low, high = float(steps.min()), float(steps.max())
    room = max(0.5, 0.01 * (high - low))
    axes.set_xlim(low - room, high + room)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("training step")


def _mark_failing(axes: Axes, step: int | None) -> None:
    if step is not None:
        axes.axvline(
            step,
            color=_style.ORANGE,
            alpha=0.5,
            linewidth=5,
            zorder=0.5,
            label=f"goes wrong: step {step}",
        )
