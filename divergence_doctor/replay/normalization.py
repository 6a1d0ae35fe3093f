"""How far are the moving statistics of a normalisation from those of the batch?

Inference normalises by the moving statistics, training by those of the batch. The batch's own need
not be measured: the step moved the moving ones towards them, by a known share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.state import layer_path, layers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray


@final
@dataclass(frozen=True, slots=True)
class Moving:
    """A layer with moving statistics, and what these were before the step."""

    layer: Any
    path: str
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]


def moving_statistics(model: Any) -> list[Moving]:
    """Return the layers that keep moving statistics, with their values now."""
    return [
        Moving(layer, layer_path(layer, model), _values(layer.moving_mean), _values(variance))
        for layer in layers_of(model)
        for variance in [getattr(layer, "moving_variance", None)]
        if variance is not None and hasattr(layer, "moving_mean") and 0 <= _momentum(layer) < 1
    ]


def compared(
    before: Sequence[Moving], *, step: int, calls: Callable[[str], int]
) -> Iterator[dict[str, Any]]:
    """Yield rows of the table ``normalizations``, one per layer that the step moved.

    A layer that is frozen, or that the step ran in inference mode, stays as it was: training
    normalises by the moving statistics too, so there is nothing to compare.

    Args:
        before: the layers before the step, which is over.
        step: number of the step.
        calls: how often the layer of a path was called in the step.
    """
    for moving in before:
        mean, variance = _values(moving.layer.moving_mean), _values(moving.layer.moving_variance)
        count = max(calls(moving.path), 1)
        unmoved = np.array_equal(mean, moving.mean) and np.array_equal(variance, moving.variance)
        if not mean.size or unmoved:
            continue
        if not np.isfinite([moving.mean, moving.variance, mean, variance]).all():
            continue  # told as corrupt
        # k calls keep m**k of what was there; the rest is a mean over the batches of the calls.
        moved = 1 - _momentum(moving.layer) ** count
        batch_mean = _whole_way(moving.mean, mean, moved)
        batch_variance = np.maximum(_whole_way(moving.variance, variance, moved), 0)
        epsilon = float(getattr(moving.layer, "epsilon", 0.0) or np.finfo(np.float32).tiny)
        deviation = np.sqrt(np.maximum(moving.variance, 0) + epsilon)
        shift = np.abs(batch_mean - moving.mean) / deviation
        growth = np.sqrt(batch_variance + epsilon) / deviation
        yield {
            "step": step,
            "layer": moving.path,
            "layer_class": type(moving.layer).__name__,
            "channels": mean.size,
            "calls": count,
            "momentum": _momentum(moving.layer),
            "fresh": bool((moving.mean == 0).all() and (moving.variance == 1).all()),
            "shift_median": float(np.median(shift)),
            "shift_max": float(shift.max()),
            "growth_median": float(np.median(growth)),
            "growth_min": float(growth.min()),
            "growth_max": float(growth.max()),
        }


def _whole_way(
    old: NDArray[np.float64], new: NDArray[np.float64], moved: float
) -> NDArray[np.float64]:
    """Return where ``old`` went a share ``moved`` of the way to, as far as its rounding tells."""
    way = new - old
    # Both were rounded to float32, which the division by the share makes larger.
    rounding = 2 * np.finfo(np.float32).eps * np.maximum(np.abs(old), np.abs(new))
    way = np.sign(way) * np.maximum(np.abs(way) - rounding, 0)
    return old + way / moved


def _momentum(layer: Any) -> float:
    momentum = getattr(layer, "momentum", None)
    return float(momentum) if isinstance(momentum, int | float) else -1.0


def _values(variable: Any) -> NDArray[np.float64]:
    return np.array(seams.values_of(variable), dtype=np.float64)
