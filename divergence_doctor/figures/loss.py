"""How did the loss, the gradients and the learning rate fare over the replayed steps?"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final, final

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
from divergence_doctor.figures._text import count, drawable, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from numpy.typing import NDArray

    from divergence_doctor.trace import Table, Trace

#: More terms than this cannot be told apart by colour.
_TERMS: Final = columns("losses", "step name value")
_MOST_TERMS: Final = len(_style.SERIES) - 1


@final
class Loss(Figure):
    """Loss of every replayed step, its terms, the norm of all gradients, and the rate."""

    name: ClassVar[str] = "loss"
    title: ClassVar[str] = "Loss over the replayed steps"
    order: ClassVar[int] = 40
    needs: ClassVar[frozenset[str]] = columns("steps", "step loss")

    def suits(self, trace: Trace) -> bool:
        """Say whether there are two steps: a single number needs no picture."""
        return super().suits(trace) and len(trace.table("steps")) > 1

    def caption(self, trace: Trace) -> str:
        """Return the first and the last loss, the extremes, and where it stops being finite."""
        steps = trace.table("steps")
        losses = steps["loss"]
        finite = losses[np.isfinite(losses)]
        said = f"Loss over {count(len(steps), 'replayed step')}: "
        said += f"{number(float(losses[0]))} at step {steps['step'][0]}, "
        said += f"{number(float(losses[-1]))} at step {steps['step'][-1]}"
        if finite.size:
            said += f"; the largest finite value is {number(float(finite.max()))}"
        bad = steps["step"][~np.isfinite(losses)]
        said += f"; not finite from step {bad[0]} on" if len(bad) else "; finite throughout"
        rates = _rates(steps).get("learning rate", np.empty(0))
        known = rates[np.isfinite(rates)]
        if known.size:
            low, high = number(float(known.min())), number(float(known.max()))
            said += f"; learning rate {low}" + (f" to {high}" if low != high else "")
        return said + "."

    def draw(self, trace: Trace, canvas: Canvas) -> None:
        """Draw the loss, and below it what was recorded of gradient norm and learning rate."""
        steps = trace.table("steps")
        norms, rates = _norms(steps), _rates(steps)
        heights = [1.5] + [1.2] * bool(norms.size) + [0.7] * len(rates)
        canvas.set_size_inches(_style.WIDTH, 1.1 + 1.8 * sum(heights))
        canvas.suptitle(self.title)
        panels = canvas.subplots(
            len(heights), 1, sharex=True, squeeze=False, height_ratios=heights
        )[:, 0]
        _curves(panels[0], trace)
        if norms.size:
            _norm(panels[1], steps["step"], norms)
        below = panels[len(panels) - len(rates) :]
        for axes, (name, values) in zip(below, rates.items(), strict=True):
            _rate(axes, steps["step"], values, name)
        _number_steps(panels[-1], steps["step"])
        for place, axes in enumerate(panels):
            _mark_failing(axes, trace.failing_step, named=place == 0)
            legend(axes)


def _curves(axes: Axes, trace: Trace) -> None:
    steps = trace.table("steps")
    terms = _terms(trace)
    for colour, (name, (at, values)) in zip(_style.SERIES[1:], terms.items(), strict=False):
        axes.plot(
            at, bounded(values), color=colour, linewidth=1.3, marker="s", markersize=3, label=name
        )
    losses = steps["loss"]
    axes.plot(
        steps["step"],
        bounded(losses),
        color=_style.BLUE,
        linewidth=2.6,
        marker="o",
        markersize=5,
        label="loss",
        zorder=3,
    )
    every = [losses, *(values for _, values in terms.values())]
    scale = value_scale(axes, np.concatenate(every))
    axes.set_ylabel("loss" if scale == "linear" else f"loss ({scale} scale)")
    mark_not_finite(axes, steps["step"][~np.isfinite(losses)], label="loss not finite")


def _terms(trace: Trace) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return the terms of the loss by name where there are several, at most five."""
    losses = trace.table("losses")
    names = list(dict.fromkeys(losses["name"].tolist())) if all(map(trace.has, _TERMS)) else []
    if len(names) <= 1:
        return {}
    found = {}
    for name in names[:_MOST_TERMS]:
        rows = losses.select(name=name)
        bad = rows["step"][~np.isfinite(rows["value"])]
        broke = f"\n(not finite: step {bad[0]})" if len(bad) else ""
        # Matplotlib leaves labels that start with an underscore out of the legend.
        found[f"term {drawable(str(name))}{broke}"] = (rows["step"], rows["value"])
    return found


def _norms(steps: Table) -> NDArray[np.float64]:
    """Return the gradient norm of every step; empty where none was recorded.

    The recorded norm is that of the finite elements: of a step whose gradients are not all
    finite it would look small, or zero. Such a step has NaN here.
    """
    if "gradient_norm" not in steps or "gradients_finite" not in steps:
        return np.empty(0)
    norms = np.where(steps["gradients_finite"], steps["gradient_norm"], np.nan)
    return norms if np.isfinite(norms).any() else np.empty(0)


def _norm(axes: Axes, steps: NDArray[np.int64], norms: NDArray[np.float64]) -> None:
    axes.plot(
        steps,
        positive(norms) if (norms[np.isfinite(norms)] > 0).all() else bounded(norms),
        color=_style.PURPLE,
        linewidth=2.0,
        marker="o",
        markersize=4,
    )
    scale = value_scale(axes, norms)
    axes.set_ylabel("gradient norm" if scale == "linear" else f"gradient norm ({scale} scale)")
    mark_not_finite(axes, steps[~np.isfinite(norms)], label="norm not finite")


def _rates(steps: Table) -> dict[str, NDArray[np.float64]]:
    """Return what scales the step, by name, where it is known: learning rate and loss scale."""
    found = {}
    for name in ("learning rate", "loss scale"):
        values = steps[column] if (column := name.replace(" ", "_")) in steps else np.empty(0)
        if np.isfinite(values).any():
            found[name] = np.asarray(values, dtype=np.float64)
    return found


def _rate(axes: Axes, steps: NDArray[np.int64], values: NDArray[np.float64], name: str) -> None:
    axes.plot(
        steps,
        bounded(values),
        color=_style.INK,
        linewidth=1.8,
        marker="o",
        markersize=3.5,
        drawstyle="steps-mid",
    )
    scale = value_scale(axes, values)
    axes.set_ylabel(name if scale == "linear" else f"{name}\n({scale} scale)")
    if scale == "linear":
        _few_ticks(axes, values)
    mark_not_finite(axes, steps[~np.isfinite(values)], label=f"{name} not finite")


def _few_ticks(axes: Axes, values: NDArray[np.float64]) -> None:
    """Tick only the values that occur where they are few: most rates are one number."""
    seen = np.unique(bounded(values)[np.isfinite(bounded(values))])
    if len(seen) <= 2:
        axes.set_yticks(seen, [number(float(value)) for value in seen])
    else:
        axes.locator_params(axis="y", nbins=4)


def _number_steps(axes: Axes, steps: NDArray[np.int64]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=16, integer=True, min_n_ticks=1))
    axes.set_xlim(float(steps.min()) - 0.4, float(steps.max()) + 0.4)
    axes.set_xlabel("replayed step")


def _mark_failing(axes: Axes, step: int | None, *, named: bool) -> None:
    if step is not None:
        axes.axvspan(
            step - 0.3,
            step + 0.3,
            color=_style.ORANGE,
            alpha=0.28,
            lw=0,
            label=f"fails: step {step}" if named else None,
        )
