"""How did loss and rate go, up to the failure? One row per step, the last thousand of them."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from divergence_doctor.capture.rate import Rate

ROWS: Final = 1_000
#: Steps that a spike is told from, and how many there must be.
_USUAL: Final = 100
_ENOUGH: Final = 20


@final
class History:
    """The last steps, as ``history.json`` of a bundle holds them."""

    def __init__(self) -> None:
        self._rows: deque[tuple[Any, ...]] = deque(maxlen=ROWS)
        self._recent: deque[float] = deque(maxlen=_USUAL)

    def add(
        self,
        step: int,
        epoch: int,
        loss: float | None,
        step_loss: float | None,
        rate: float | None,
        loss_scale: float | None,
    ) -> None:
        """Add a step.

        Args:
            step: its number.
            epoch: its epoch.
            loss: as Keras logs it, the mean over the epoch so far.
            step_loss: of the step alone.
            rate: what :meth:`Rate.read` gave before the step.
            loss_scale: the scale of the step.
        """
        self._rows.append((step, epoch, loss, step_loss, rate, loss_scale))

    def spike(self, loss: float | None, factor: float) -> str:
        """Return how far a loss stands above the usual; empty where it does not by this factor."""
        if loss is None:
            return ""
        recent = sorted(self._recent)
        self._recent.append(loss)
        if len(recent) < _ENOUGH:
            return ""
        usual = recent[len(recent) // 2]
        if usual > 0 and loss > factor * usual:
            times = loss / usual
            return f"the loss of the step, {loss:.4g}, is {times:.1f} times the usual {usual:.4g}"
        return ""

    def columns(self, rate: Rate | None) -> dict[str, list[Any]]:
        """Return the columns, of equal length."""
        names = ("step", "epoch", "loss", "step_loss", "learning_rate", "loss_scale")
        columns: dict[str, list[Any]] = {
            name: [row[place] for row in self._rows] for place, name in enumerate(names)
        }
        read: Sequence[float | None] = columns["learning_rate"]
        columns["learning_rate"] = list(read) if rate is None else rate.values(read)
        return columns
