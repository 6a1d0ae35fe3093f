"""Do activations or gradients grow from one layer, or one time step, to the next?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from divergence_doctor.trace import Table, Trace

#: Growth by less than this in total is what healthy deep networks show (He et al. 2015 keep it
#: near 1; un-normalised residual stacks reach some hundreds).
TOTAL: Final = 1e3
#: Mean factor per layer or time step from which growth counts as geometric.
PER_LINK: Final = 1.5
#: With fewer links than this a factor is a jump, not a growth.
LINKS: Final = 3
#: One link with more than this share of the decades is a jump at a point, not a growth.
LARGEST_SHARE: Final = 0.6
#: Through time a weight is applied hundreds of times: 1.05**300 is 2e6.
PER_CALL: Final = 1.03


@final
@dataclass(frozen=True, slots=True)
class Growth:
    """A geometric growth.

    Attributes:
        along: ``depth`` (from layer to layer) or ``time`` (from call to call of one layer).
        names: the layers that it runs through, in its own direction; one layer for ``time``.
        values: the sizes along it (absmax of activations, L2 of gradients).
        step: replayed step.
        times: the time steps that it runs through, where the layer walks through time.
    """

    along: Literal["depth", "time"]
    names: tuple[str, ...]
    values: tuple[float, ...]
    step: int
    times: tuple[int, ...] = ()

    @property
    def total(self) -> float:
        """The factor from its start to its peak (infinite beyond float64)."""
        decades = math.log10(self.values[-1]) - math.log10(self.values[0])
        return float(10**decades) if decades < 308 else math.inf

    @property
    def per_link(self) -> float:
        """The mean factor per layer or time step."""
        decades = math.log10(self.values[-1]) - math.log10(self.values[0])
        return float(10 ** (decades / self.links))

    @property
    def links(self) -> int:
        """Layers or time steps between its start and its peak."""
        return len(self.values) - 1

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that it runs through, without repeats."""
        return tuple(dict.fromkeys(self.names))

    def __str__(self) -> str:
        unit = "layer" if self.along == "depth" else "time step"
        return (
            f"from {self.values[0]:.3g} to {self.values[-1]:.3g} over {self.links} {unit}s "
            f"({self.per_link:.3g}x per {unit})"
            + (f", time step {self.times[0]} to {self.times[-1]}" if self.times else "")
        )


def activation_growth(trace: Trace, step: int) -> Growth | None:
    """Return how the activations of a step grow through depth or time, if they do.

    The size of a layer's output is its largest magnitude (column ``absmax``). The series ends at
    the first output with a non-finite value: what comes after says nothing about the growth.
    """
    rows = trace.table("activations").select(step=step)
    rows = rows.where(np.asarray([role != "input" for role in rows["role"]], dtype=bool))
    return _steepest(trace, rows, "absmax", step, backward=False)


def gradient_growth(trace: Trace, step: int) -> Growth | None:
    """Return how the gradients of a step grow on the way back, if they do.

    The size of the gradient that comes back to a layer's output is its L2 norm (column ``l2``);
    the direction is from the loss to the input, and from the last time step to the first.
    """
    rows = trace.table("gradients").select(step=step, variable="")
    return _steepest(trace, rows, "l2", step, backward=True)


def gradient_decay(trace: Trace, step: int) -> Growth | None:
    """Return how the gradients of a step shrink on the way back, if they do.

    The same sizes as for their growth, seen the other way round: from the input to the loss, and
    from the first time step to the last, they grow.
    """
    rows = trace.table("gradients").select(step=step, variable="")
    return _steepest(trace, rows, "l2", step, backward=False)


def gains(trace: Trace, step: int) -> dict[str, float]:
    """Return the largest gain, rms * sqrt(fan in), of each layer's weight matrices.

    About 1 after Glorot and 1.4 after He initialisation (He et al. 2015, eq. 10).

    Args:
        trace: any trace.
        step: replayed step; the weights before its update.
    """
    rows = trace.table("weights").select(step=step, when="before")
    found: dict[str, float] = {}
    for layer, shape, size, l2 in zip(
        rows["layer"], rows["shape"], rows["size"], rows["l2"], strict=True
    ):
        sides = [int(side) for side in str(shape).split("x") if side]
        if len(sides) >= 2 and size > 0 and math.isfinite(l2):
            fan_in = float(np.prod(sides[:-1], dtype=np.float64))
            gain = float(l2) / math.sqrt(float(size)) * math.sqrt(fan_in)
            found[str(layer)] = max(gain, found.get(str(layer), 0.0))
    return found


def weighted(layers: Iterable[str], weights: Mapping[str, float]) -> list[str]:
    """Return those of the layers that hold weight matrices, once each; all when none is known."""
    named = [layer for layer in dict.fromkeys(layers) if layer]
    return [layer for layer in named if layer in weights] or named


def _steepest(
    trace: Trace, rows: Table, column: str, step: int, *, backward: bool
) -> Growth | None:
    series = _by_layer(rows, column)
    found = [_depth(trace, series, step, backward=backward)]
    times = _times(rows)
    found += [
        _time(layer, calls, times, step, backward=backward) for layer, calls in series.items()
    ]
    grown = [growth for growth in found if growth is not None]
    return max(grown, key=lambda growth: growth.total, default=None)


def _by_layer(rows: Table, column: str) -> dict[str, list[tuple[int, float]]]:
    """Return call and size of every output, by layer; a size is NaN where it is not finite.

    The call of a cell by which Keras learns its shape, before the first time step, does not count.
    """
    series: dict[str, list[tuple[int, float]]] = {}
    in_time = {str(layer) for layer in rows["layer"][rows["time"] >= 0]}
    rows = rows.where(
        np.asarray(
            [
                time >= 0 or str(layer) not in in_time
                for layer, time in zip(rows["layer"], rows["time"], strict=True)
            ],
            dtype=bool,
        )
    )
    spilt = (rows["nan"] > 0) | (rows["posinf"] > 0) | (rows["neginf"] > 0)
    sizes = np.where(spilt, np.nan, rows[column])
    for layer, call, size in zip(rows["layer"], rows["call"], sizes, strict=True):
        series.setdefault(str(layer), []).append((int(call), float(size)))
    return series


def _depth(
    trace: Trace, series: dict[str, list[tuple[int, float]]], step: int, *, backward: bool
) -> Growth | None:
    order = [layer for layer in _execution(trace, step) if layer in series]
    wrappers = _wrappers(series)
    order = [layer for layer in (order or series) if layer not in wrappers]
    sizes = [float(np.max([size for _, size in series[layer]])) for layer in order]
    if backward:
        order, sizes = order[::-1], sizes[::-1]
    return _grown("depth", order, sizes, step, least=PER_LINK)


def _execution(trace: Trace, step: int) -> list[str]:
    """Return the layers in the order in which they put something out in the forward pass."""
    rows = trace.table("activations").select(step=step)
    ordered = rows["layer"][np.argsort(rows["order"], kind="stable")]
    return list(dict.fromkeys(str(layer) for layer in ordered))


def _wrappers(layers: Iterable[str]) -> frozenset[str]:
    """Return the paths that hold others: a model or wrapper repeats what its parts put out."""
    return frozenset(
        layer[:end] for layer in layers for end, sign in enumerate(layer) if sign == "/"
    )


def _times(rows: Table) -> dict[tuple[str, int], int]:
    """Return the time step of each call of each layer that walks through time."""
    return {
        (str(layer), int(call)): int(time)
        for layer, call, time in zip(rows["layer"], rows["call"], rows["time"], strict=True)
        if time >= 0
    }


def _time(
    layer: str,
    calls: list[tuple[int, float]],
    times: Mapping[tuple[str, int], int],
    step: int,
    *,
    backward: bool,
) -> Growth | None:
    by_call: dict[int, float] = {}
    for call, size in calls:
        by_call[call] = float(np.maximum(by_call.get(call, size), size))
    order = sorted(by_call, reverse=backward)
    return _grown(
        "time",
        [layer] * len(order),
        [by_call[call] for call in order],
        step,
        least=PER_CALL,
        times=[times[layer, call] for call in order if (layer, call) in times],
    )


def _grown(
    along: Literal["depth", "time"],
    names: Sequence[str],
    sizes: Sequence[float],
    step: int,
    *,
    least: float,
    times: Sequence[int] = (),
) -> Growth | None:
    known = times if len(times) == len(sizes) else [-1] * len(sizes)
    kept = [
        (name, size, time)
        for (name, size), time in zip(_until_bad(names, sizes), known, strict=False)
        if size > 0
    ]
    if len(kept) <= LINKS:
        return None
    values = [size for _, size, _ in kept]
    peak = int(np.argmax(values))
    start = _start(values, peak)
    if peak - start < LINKS:
        return None
    growth = Growth(
        along,
        tuple(name for name, _, _ in kept[start : peak + 1]),
        tuple(values[start : peak + 1]),
        step,
        tuple(time for _, _, time in kept[start : peak + 1] if time >= 0),
    )
    return growth if _geometric(growth, least) else None


def _until_bad(names: Sequence[str], sizes: Sequence[float]) -> list[tuple[str, float]]:
    kept = []
    for name, size in zip(names, sizes, strict=True):
        if not math.isfinite(size):
            break
        kept.append((name, size))
    return kept


def _start(values: Sequence[float], peak: int) -> int:
    """Return the last place before the peak at which the size was smallest."""
    before = values[: peak + 1]
    return peak - int(np.argmin(before[::-1]))


def _geometric(growth: Growth, least: float) -> bool:
    decades = np.diff(np.log10(growth.values))
    return (
        growth.total >= TOTAL
        and growth.per_link >= least
        and float(decades.max()) <= LARGEST_SHARE * float(decades.sum())
    )
