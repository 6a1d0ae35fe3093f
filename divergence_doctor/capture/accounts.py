"""What is written down of every step? Its losses, and the rate and loss scale it was taken at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor.capture import batch as batches
from divergence_doctor.capture.losses import StepLoss, scalar, scalars
from divergence_doctor.capture.rate import LossScale, Rate

if TYPE_CHECKING:
    from divergence_doctor.capture.history import History
    from divergence_doctor.capture.ring import Step


@final
@dataclass(frozen=True, slots=True)
class Account:
    """What a step said of itself.

    Attributes:
        step: its number.
        told: what it logged that is one number each, by name.
        loss: of the step alone; None where nothing tells it.
    """

    step: int
    told: dict[str, float]
    loss: float | None


@final
class Accounts:
    """Keeps the history of the steps of one model.

    Args:
        model: the model, or None.
        optimizer: the optimizer whose rate and loss scale are meant, or None.
        loop: ``fit``, ``train_on_batch`` or ``custom``.
        history: where the steps are written down.
    """

    def __init__(self, model: Any, optimizer: Any, loop: str, history: History) -> None:
        self.history: Final = history
        self.rate: Final = Rate(optimizer)
        self.scale: Final = LossScale(optimizer)
        self._loss = StepLoss(model) if loop != "custom" and model is not None else None
        self._resets = loop == "train_on_batch"
        self._loop = loop
        self._read: tuple[float | None, float | None] = (None, None)

    def before_step(self, *, afresh: bool) -> None:
        """Read at which rate and loss scale the next step is taken.

        Args:
            afresh: the rate may have changed: an epoch begins, or the state is read as well.
        """
        self._read = self.rate.read(afresh=afresh), self.scale.read()

    @property
    def may_be_late(self) -> bool:
        """Whether an account of a step is the same when it is kept a few steps later.

        Nothing but the step's batch and what it logged is needed, and the rate stays where it is.
        """
        return (
            self._loop == "fit"
            and not self.scale.searched
            and not self.rate.moves
            and self._loss is not None
            and self._loss.is_told_by_the_mean
        )

    def kept(self, step: Step, logs: Any, loss: Any) -> Account:
        """Return the account of the step that has just ended.

        Args:
            step: the step.
            logs: what it logged.
            loss: its loss, where a loop of one's own tells it.
        """
        told = dict(scalars(logs))
        samples = batches.samples(step.data) if logs is not None else 0
        own = None if loss is None else scalar(loss)
        return Account(step.number, told, self._written(step, told.get("loss"), samples, own))

    def moves_on(self) -> None:
        """Go on to a step that was let pass, before which nothing was read."""
        self._read = self.rate.after_step(), self._read[1]

    def kept_late(self, step: Step, mean: float) -> None:
        """Keep the account of a step that has passed and logged nothing odd.

        Args:
            step: the step.
            mean: its loss as it was logged; finite.
        """
        self._written(step, mean, batches.samples(step.data), None)

    def died(self, number: int, epoch: int) -> None:
        """Write down a step that an exception came out of."""
        self.history.add(number, epoch, None, None, *self._read)

    def read_tracker(self, *, between: bool = True) -> None:
        """Take Keras' tracker of the loss as it stands.

        Args:
            between: steps have passed of which all were seen.
        """
        if self._loss is not None and (self._loop == "fit" or not between):
            self._loss.settle(between=between)

    def _written(
        self, step: Step, mean: float | None, samples: int, loss: float | None
    ) -> float | None:
        if self._loss is not None:
            loss = self._loss.after_step(mean, samples, reset=self._resets)
        self.history.add(step.number, step.epoch, mean, loss, *self._read)
        return loss
