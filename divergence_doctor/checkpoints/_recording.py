"""What does a crash bundle hold beside the model? The steps that led to the failure."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor.batches import read_batches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from divergence_doctor.batches import Batch

_NUMBERS: Final = ("loss", "step_loss", "learning_rate", "loss_scale")


@final
@dataclass(frozen=True, slots=True)
class RecordedStep:
    """The batch of one training step, still on the disk.

    Attributes:
        step: count of training steps before it.
        path: the ``.npz``.
        structure: how its arrays were nested, where their names do not say it; else None.
    """

    step: int
    path: Path
    structure: Any = None

    def read(self) -> Batch:
        """Return the batch.

        Raises:
            DoctorError: it is damaged, or takes more memory than there is.
        """
        return replace(read_batches([self.path])[0], structure=self.structure)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """How the failing run went, to be gone through again.

    Attributes:
        bundle: the folder.
        failing: training step at which the recorder saw the failure.
        snapshot: training step before which the weights were copied.
        steps: batches up to the failing one, without a gap; the first is that of ``snapshot``
            unless the oldest were dropped.
        history: columns ``step``, ``epoch``, ``loss`` (running), ``step_loss``,
            ``learning_rate`` and ``loss_scale`` of equal length; None where a value is not known.
        loop: ``fit``, ``train_on_batch`` or ``custom``.
        trigger: what the recorder saw, e.g. ``non-finite-loss``.
        message: the same in words.
        generators: random state that is no variable, as JSON.
        jit: the step was compiled by XLA.
        replicas: devices that each step was spread over.
        elsewhere: what is otherwise here than where it was recorded, as parts of a sentence.
    """

    bundle: Path
    failing: int
    snapshot: int
    steps: tuple[RecordedStep, ...]
    history: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    loop: str = "fit"
    trigger: str = ""
    message: str = ""
    generators: Mapping[str, Any] = field(default_factory=dict)
    jit: bool = False
    replicas: int = 1
    elsewhere: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """The batches lead from the weights to the failing step without a gap."""
        return bool(self.steps) and self.steps[0].step == self.snapshot

    def of(self, step: int, column: str) -> float:
        """Return a number of the history; NaN where it is not known."""
        value = self._value(step, column)
        return math.nan if value is None else float(value)

    def epoch(self, step: int) -> int:
        """Return the epoch of a step; -1 where it is not known."""
        value = self._value(step, "epoch")
        return -1 if value is None else int(value)

    def logged(self, step: int) -> float | None:
        """Return the loss that was logged; of a loop of the user's own that of the step.

        None where none is known; NaN is known.
        """
        value = self._value(step, "loss")
        if value is None and self.loop == "custom":
            value = self._value(step, "step_loss")
        return None if value is None else float(value)

    def _value(self, step: int, column: str) -> Any:
        at, values = self.history.get("step", ()), self.history.get(column, ())
        place = bisect_left(at, step)
        return values[place] if place < len(at) and at[place] == step else None


def columns(history: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
    """Return the columns of a bundle's history as far as they make sense.

    Args:
        history: columns of equal length, as a stranger may have written them.

    Returns:
        ``step`` as integers in ascending order, ``epoch`` as integers or None, and the others as
        floats or None; a row whose step is none, or does not ascend, is left out.
    """
    steps = history.get("step", ())
    kept: list[int] = []
    for place, step in enumerate(steps):
        if _whole(step) is not None and (not kept or step > steps[kept[-1]]):
            kept.append(place)
    found = {"step": tuple(steps[place] for place in kept)}
    for name, plain in (("epoch", _whole), *((name, _number) for name in _NUMBERS)):
        column = history.get(name, ())
        if steps and len(column) == len(steps):
            found[name] = tuple(plain(column[place]) for place in kept)
    return found


def _whole(value: Any) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
    return value if good else None


def _number(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
