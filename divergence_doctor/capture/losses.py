"""What was the loss of the step alone? Keras tells the mean over the epoch so far.

After one NaN that mean is NaN for the rest of the epoch, and an Inf among thousands moves it little
in half precision; the tracker behind it holds a sum and a count, and the step's share of both is
what changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import numpy as np

from divergence_doctor.capture import _seams as seams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray


@final
class StepLoss:
    """Tells the loss of each step from the mean that Keras logs, or from the tracker behind it.

    Where Keras' own step weighs the mean by the size of the batch, nothing needs to be read. The
    tracker is asked now and then whether that still holds (:meth:`settle`).

    Args:
        model: a compiled Keras model.
    """

    def __init__(self, model: Any) -> None:
        self._readers: tuple[Callable[[], NDArray[Any]], ...] = ()
        self._before = (0.0, 0.0)
        tracker = next((m for m in model.metrics if _tracks_loss(m)), None)
        if tracker is not None:
            self._readers = (seams.reader(tracker.total), seams.reader(tracker.count))
        self._weighs = seams.weighs_loss_by_samples(model, tracker)

    @property
    def is_told_by_the_mean(self) -> bool:
        """Whether nothing needs to be read: mean and size of the batch tell the step's loss."""
        return self._weighs and bool(self._readers)

    def settle(self, *, between: bool = True) -> None:
        """Take the tracker as it stands for the state from before the next step.

        Args:
            between: steps have passed of which all were seen, so that its count is known.
        """
        if not self._readers:
            return
        held = self._read()
        if between and held[1] != self._before[1]:
            self._weighs = False
        self._before = held

    def after_step(self, mean: float | None, samples: int, *, reset: bool) -> float | None:
        """Return the mean loss of the step that has just ended; None where nothing tells it.

        Args:
            mean: the loss that was logged, the mean over the epoch so far.
            samples: of the step's batch; 0 where they cannot be counted.
            reset: the metrics were reset right before the step.
        """
        if not self._readers:
            return None
        if not self._weighs or mean is None or not samples:
            return self._from_tracker()
        total, count = (0.0, 0.0) if reset else self._before
        self._before = mean * (count + samples), count + samples
        return (self._before[0] - total) / samples

    def _from_tracker(self) -> float | None:
        total, count = self._read()
        before, counted = self._before
        self._before = total, count
        if count <= counted:
            # Reset in between.
            before = counted = 0.0
        return None if count == counted else (total - before) / (count - counted)

    def _read(self) -> tuple[float, float]:
        total, count = self._readers
        return float(total()), float(count())


def _tracks_loss(metric: Any) -> bool:
    import keras

    # A subclass may count otherwise.
    return type(metric) is keras.metrics.Mean and metric.name == "loss"


def scalars(logs: Any) -> Iterator[tuple[str, float]]:
    """Yield what a step logged that is one number each, by name."""
    if not isinstance(logs, Mapping):
        return
    for name, value in logs.items():
        if not hasattr(value, "_numpy") and isinstance(value, Mapping):
            yield from scalars(value)
            continue
        number = scalar(value)
        if number is not None:
            yield str(name), number


def scalar(value: Any) -> float | None:
    """Return a number, an array or a tensor of one element as a float; None for anything else."""
    try:
        array = seams.view(value) if hasattr(value, "_numpy") else np.asarray(value, np.float64)
        return float(array.reshape(())) if array.size == 1 else None
    except (TypeError, ValueError):
        return None


def is_loss(name: str) -> bool:
    """Say whether a logged value goes by the name of a loss: others may be NaN and mean nothing."""
    return "loss" in name.lower()
