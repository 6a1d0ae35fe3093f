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
    """Reads the loss of each step off a model's loss tracker.

    Args:
        model: a compiled Keras model.
    """

    def __init__(self, model: Any) -> None:
        self._readers: tuple[Callable[[], NDArray[Any]], Callable[[], NDArray[Any]]] | None = None
        self._before = (0.0, 0.0)
        tracker = next((m for m in model.metrics if _tracks_loss(m)), None)
        if tracker is not None:
            self._readers = (seams.reader(tracker.total), seams.reader(tracker.count))

    def settle(self) -> None:
        """Take the tracker as it stands for the state from before the next step."""
        if self._readers is not None:
            self._before = self._read(self._readers)

    def after_step(self) -> float | None:
        """Return the mean loss of the step that has just ended; None where no tracker tells it."""
        if self._readers is None:
            return None
        total, count = self._read(self._readers)
        before, counted = self._before
        self._before = total, count
        if count <= counted:
            # Reset in between: at the start of an epoch, and before every `train_on_batch`.
            before = counted = 0.0
        if count == counted:
            return None
        return (total - before) / (count - counted)

    @staticmethod
    def _read(readers: tuple[Callable[[], NDArray[Any]], ...]) -> tuple[float, float]:
        return float(readers[0]()), float(readers[1]())


def _tracks_loss(metric: Any) -> bool:
    import keras

    # A subclass may count otherwise.
    return type(metric) is keras.metrics.Mean and metric.name == "loss"


def scalars(logs: Any) -> Iterator[tuple[str, float]]:
    """Yield what a step logged that is one number each, by name."""
    if not isinstance(logs, Mapping):
        return
    for name, value in logs.items():
        if isinstance(value, Mapping):
            yield from scalars(value)
            continue
        number = scalar(value)
        if number is not None:
            yield str(name), number


def scalar(value: Any) -> float | None:
    """Return a number, an array or a tensor of one element as a float; None for anything else."""
    if isinstance(value, int | float):
        return float(value)
    try:
        array = seams.view(value) if hasattr(value, "_numpy") else np.asarray(value)
        return float(array.reshape(())) if array.size == 1 else None
    except (TypeError, ValueError):
        return None


def is_loss(name: str) -> bool:
    """Say whether a logged value goes by the name of a loss: others may be NaN and mean nothing."""
    return "loss" in name.lower()
