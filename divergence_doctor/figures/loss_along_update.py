"""How long might the step have been? The loss on its own batch, along the update that was taken."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.figures import _style
from divergence_doctor.figures._axes import (
    bounded,
    legend,
    mark_not_finite,
    power_of_ten,
    value_scale,
)
from divergence_doctor.figures._figure import Figure, columns
from divergence_doctor.figures._text import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas
    from numpy.typing import NDArray

    from divergence_doctor.trace import Trace

#: Fewer points than these are no line.
_FEWEST: Final = 4
#: Room beside the outermost step sizes, as a factor.
_BESIDE: Final = 1.4


@final
class LossAlongUpdate(Figure):
    """Loss at multiples of one real update, with the rate used and the largest that lives."""

    name: ClassVar[str] = "loss-along-update"
    title: ClassVar[str] = "Loss along the update"
    order: ClassVar[int] = 45
    needs: ClassVar[frozenset[str]] = columns("along_update", "step scale loss") | columns(
        "directions", "step loss learning_rate longest"
    )

    def suits(self, trace: Trace) -> bool:
        """Say whether a whole line was measured: two points need no picture."""
        return super().suits(trace) and _shown(trace) is not None

    def caption(self, trace: Trace) -> str:
        """Return the loss before and after the step, the longest step, and the safe rate."""
        seen = _read(trace)
        after = number(seen.after)
        said = [
            f"Loss of the batch of step {seen.step} at multiples of its update",
            f"{number(seen.before)} before it, {after} after the step that was taken"
            + (f" (learning rate {number(seen.rate)})" if math.isfinite(seen.rate) else ""),
        ]
        if seen.longest >= seen.scales.max():
            said.append("not raised by any longer step that was tried")
        elif seen.longest > 0:
            said.append(f"not raised by steps of up to {number(seen.longest)} times that length")
        elif seen.longest == 0:
            said.append("raised by any step that way")
        if math.isfinite(seen.safe):
            said.append(
                f"the largest rate at which all steps live is {number(seen.rate * seen.safe)}"
                if math.isfinite(seen.rate)
                else f"all steps live at {number(seen.safe)} times the rate"
            )
        return "; ".join(said) + "."

    def draw(self, trace: Trace, canvas: Canvas) -> None:
        """Draw the loss over the step size, on a logarithmic axis."""
        seen = _read(trace)
        canvas.set_size_inches(_style.WIDTH, 4.4)
        canvas.suptitle(self.title)
        axes = canvas.subplots()
        axes.set_title(
            f"step {seen.step}: all else as before it, the same batch and random numbers"
        )
        axes.plot(
            seen.scales,
            bounded(seen.losses),
            color=_style.BLUE,
            linewidth=2.2,
            marker="o",
            markersize=4.5,
            label="loss at that step size",
            zorder=3,
        )
        scale = value_scale(axes, np.append(seen.losses, seen.before))
        axes.set_ylabel("loss" if scale == "linear" else f"loss ({scale} scale)")
        axes.axhline(
            float(bounded(seen.before)),
            color=_style.INK,
            linestyle=":",
            linewidth=1.5,
            label=f"before the step: {number(seen.before)}",
        )
        _marks(axes, seen)
        mark_not_finite(axes, seen.scales[~np.isfinite(seen.losses)], label="loss not finite")
        _sizes(axes, seen)
        legend(axes)


@final
class _Seen:
    """What is drawn: step sizes above 0, the loss at each, and the sizes to mark."""

    def __init__(self, trace: Trace, step: int) -> None:
        rows = trace.table("along_update").select(step=step)
        direction = trace.table("directions").select(step=step).row(0)
        there = np.isfinite(rows["scale"]) & (rows["scale"] > 0)
        order = np.argsort(rows["scale"][there], kind="stable")
        self.step = step
        self.scales: NDArray[np.float64] = np.clip(rows["scale"][there][order], 1e-30, 1e30)
        self.losses: NDArray[np.float64] = rows["loss"][there][order]
        self.before = float(direction["loss"])
        self.rate = float(direction["learning_rate"])
        if not self.rate > 0:
            self.rate = math.nan
        self.longest = float(direction["longest"])
        at = np.flatnonzero(self.scales == 1.0)
        self.after = float(self.losses[at[0]]) if len(at) else math.nan
        self.safe = _safe(trace)


def _safe(trace: Trace) -> float:
    """Return the largest surviving rate as a part of the rate used; NaN where none is known."""
    tried: Any = trace.table("attempts").select(trial="lower-rate", outcome="finite")
    divisors = tried["value"][tried["value"] > 0] if len(tried) else np.empty(0)
    return float(1.0 / divisors.min()) if len(divisors) else math.nan


def _shown(trace: Trace) -> int | None:
    """Return the step whose whole line was measured."""
    table = trace.table("along_update")
    steps = set(trace.table("directions")["step"].tolist())
    counts = {
        step: int((table.select(step=step)["scale"] > 0).sum())
        for step in dict.fromkeys(table["step"].tolist())
        if step in steps
    }
    step = max(counts, key=lambda step: (counts[step], -step), default=None)
    return step if step is not None and counts[step] >= _FEWEST else None


def _read(trace: Trace) -> _Seen:
    step = _shown(trace)
    return _Seen(trace, -1 if step is None else step)


def _marks(axes: Axes, seen: _Seen) -> None:
    """Mark the step that was taken, the longest that lowers the loss, and the safe rate."""
    rate = f"\n(learning rate {number(seen.rate)})" if math.isfinite(seen.rate) else ""
    axes.axvline(1.0, color=_style.ORANGE, linewidth=2.0, linestyle="-", label=f"step taken{rate}")
    if seen.longest > 0:
        axes.axvspan(
            seen.scales.min() / _BESIDE,
            seen.longest,
            color=_style.SKY,
            alpha=0.25,
            lw=0,
            label=f"does not raise the loss:\nup to {number(seen.longest)} of it",
            zorder=0.5,
        )
    if math.isfinite(seen.safe):
        safe = (
            f"\n(learning rate {number(seen.rate * seen.safe)})" if math.isfinite(seen.rate) else ""
        )
        axes.axvline(
            seen.safe,
            color=_style.GREEN,
            linewidth=2.0,
            linestyle="--",
            label=f"largest at which all\nsteps live{safe}",
        )


def _sizes(axes: Axes, seen: _Seen) -> None:
    """Give x a logarithmic axis of step sizes."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    shown = np.append(seen.scales, seen.safe) if math.isfinite(seen.safe) else seen.scales
    low, high = float(shown.min()), float(max(shown.max(), 1.0))
    axes.set_autoscalex_on(False)
    axes.set_xscale("log")
    axes.set_xlim(low / _BESIDE, high * _BESIDE)
    exponents = range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1)
    stride = max(1, -(-len(exponents) // 10))
    axes.xaxis.set_major_locator(FixedLocator([10.0**e for e in exponents[::stride]]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value)))
    axes.set_xlabel("size of the step, as a multiple of the update that was taken (log scale)")
