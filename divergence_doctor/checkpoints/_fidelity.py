"""How true is the opened model to the run that died? Every gap becomes a sentence that names it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._compile import has_loss_scaling
from divergence_doctor.checkpoints._optimizers import innermost, optimizers_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Restored = Literal["restored", "partial", "missing"]

#: Last part of the path that Keras gives to the state of every ``SeedGenerator``.
SEED_STATE: Final = "seed_generator_state"


@final
@dataclass
class Fidelity:
    """What of the training the checkpoint brought back, collected while it is opened.

    Attributes:
        optimizer_state: how much of the optimizer's variables the file brought back.
        notes: full sentences, one for each gap.
        seeded: ids of the random states that the file brought back.
    """

    optimizer_state: Restored = "missing"
    notes: list[str] = field(default_factory=list)
    seeded: set[int] = field(default_factory=set)

    def note(self, text: str) -> None:
        """Add a sentence, once."""
        if text not in self.notes:
            self.notes.append(text)

    def report(self, model: Any) -> dict[str, Any]:
        """Return it as ``report.json`` holds it, once the model is as it will be replayed."""
        for optimizer in optimizers_of(model):
            self._count(innermost(optimizer))
        lost = self.unseeded(model)
        if lost:
            self.note(
                f"The state of {len(lost)} random generator{'s' * (len(lost) > 1)}"
                f" ({_named_layers(model)}) is not in the file: what they draw, masks for one, is"
                " not what they drew in the step that failed."
            )
        return {
            "optimizer_state": self.optimizer_state,
            "random_state": "missing" if lost else "restored",
            "notes": list(self.notes),
        }

    def unseeded(self, model: Any) -> list[Any]:
        """Return the random states of a model that the file did not bring back."""
        return [state for state in random_states(model) if id(state) not in self.seeded]

    def _count(self, optimizer: Any) -> None:
        """Tell of an optimizer that counts its steps from 0 although it has taken some."""
        if not optimizer.built or int(np.asarray(optimizer.iterations)) != 0:
            return
        name = clean(str(optimizer.name))
        schedule = schedule_of(optimizer)
        used = [
            variable.path for variable in slots_of(optimizer) if np.asarray(variable.value).any()
        ]
        if used:
            self.note(
                f"The optimizer {name} counts its steps from 0 although its slots are not fresh"
                f" ({listed(used)}): the file holds no step counter, and what depends on it, such"
                " as the bias correction of Adam, is that of a first step."
            )
        if schedule is not None and (used or self.optimizer_state != "restored"):
            self.note(
                f"The schedule {type(schedule).__name__} restarts at step 0, with a learning rate"
                f" of {float(np.asarray(optimizer.learning_rate)):.4g}: the step counter of the"
                " training was not restored."
            )


def random_states(model: Any) -> list[Any]:
    """Return the state variables of the random generators in a model's layers, in their order."""
    return [v for v in model.variables if v.path.rpartition("/")[2] == SEED_STATE]


def schedule_of(optimizer: Any) -> Any:
    """Return the learning-rate schedule of an optimizer, or None for a constant rate."""
    import keras

    rate = getattr(optimizer, "_learning_rate", None)
    return rate if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else None


def slots_of(optimizer: Any) -> list[Any]:
    """Return an optimizer's variables without the step counter and the learning rate."""
    apart = {id(optimizer.iterations), id(getattr(optimizer, "_learning_rate", None))}
    return [variable for variable in optimizer.variables if id(variable) not in apart]


def listed(names: Iterable[str], most: int = 3) -> str:
    """Return the first names of a list, and how many more there are."""
    every: Sequence[str] = list(names)
    shown = ", ".join(clean(name, 80) for name in every[:most])
    return shown + (f" and {len(every) - most} more" if len(every) > most else "")


def tell_policy(trained: str | None, model: Any, fidelity: Fidelity) -> None:
    """Say that a loss scale was kept, which Keras drops when it loads the file under float32."""
    if has_loss_scaling(model) and trained == "mixed_float16":
        fidelity.note(
            f"The file was written under the policy {trained} and is opened under it, with its loss"
            f" scale of {float(np.asarray(model.optimizer.dynamic_scale)):g}; under float32 Keras"
            " drops the LossScaleOptimizer."
        )


def _named_layers(model: Any) -> str:
    layers = model._flatten_layers(include_self=True, recursive=True)  # noqa: SLF001 - Keras has no public walk through nested layers
    drawing = [
        f"{type(layer).__name__} {layer.name}"
        for layer in layers
        if getattr(layer, "_seed_generators", None)
    ]
    return listed(dict.fromkeys(drawing)) or "outside of any layer"
