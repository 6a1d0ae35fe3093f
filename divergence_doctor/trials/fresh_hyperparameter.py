"""Does the step live with one number of the optimizer as Keras has it by default?"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.checkpoints import innermost, optimizers_of
from divergence_doctor.replay._seams import bounded_rate
from divergence_doctor.replay.hyperparameters import default_of
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from divergence_doctor.replay.bench import Bench

#: Where a class names no default of its own: what Keras' Adam has (Kingma & Ba 2015; the epsilon is
#: Keras'), and no clipping, decay or scale.
_USUAL: Final[Mapping[str, Any]] = {
    "learning_rate": 1e-3,
    "epsilon": 1e-7,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "rho": 0.9,
    "momentum": 0.0,
    "centered": False,
    "initial_accumulator_value": 0.1,
}
#: Keras' ``LossScaleOptimizer`` begins here.
_SCALE: Final = 2.0**15
#: Slots that begin at ``initial_accumulator_value``.
_ACCUMULATORS: Final = ("_accumulator",)


@final
class FreshHyperparameter(Trial):
    """Sets one hyper-parameter to its default: ``{"name": "epsilon", "optimizer": 0}``.

    A learning rate schedule keeps every rate that is finite and not negative; the default stands in
    for the others only.
    """

    name: ClassVar[str] = "fresh-hyperparameter"
    breadth: ClassVar[int] = 1

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run all the steps with the default."""
        name, index = str(parameters["name"]), int(parameters.get("optimizer", 0))
        optimizers = optimizers_of(bench.model)
        if index >= len(optimizers):
            return Outcome.not_run(name, f"the model has no optimizer {index}")
        optimizer = optimizers[index]
        inner = innermost(optimizer)
        value = _SCALE if name == "loss_scale" else _default(inner, name)
        if name != "loss_scale" and not hasattr(inner, name):
            return Outcome.not_run(name, f"{type(inner).__name__} has no {name}")

        @contextmanager
        def mended() -> Iterator[None]:
            if name == "loss_scale":
                optimizer.dynamic_scale.assign(value)
                yield
            elif name == "learning_rate":
                with bounded_rate(inner, float(value)):
                    yield
            else:
                with _attribute(inner, name, value):
                    yield

        steps = max(bench.asked, bench.failing_step + 1)
        changed = f"{name} of {type(inner).__name__} set to {_spelt(value)}"
        return Outcome.of(changed, bench.run(prepare=mended, steps=steps))


@contextmanager
def _attribute(optimizer: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(optimizer, name)
    setattr(optimizer, name, value)
    if name == "initial_accumulator_value":
        for slot in optimizer.variables:
            if slot.path.endswith(_ACCUMULATORS):
                slot.assign(np.full(slot.shape, value, dtype="float32"))
    try:
        yield
    finally:
        setattr(optimizer, name, before)


def _default(optimizer: Any, name: str) -> Any:
    try:
        value = default_of(optimizer, name)
    except (KeyError, ValueError, TypeError):
        value = None
    # A class of the user's own may have the bad value for its default.
    same = value is not None and value == getattr(optimizer, name, None)
    return _USUAL.get(name) if value is None or same else value


def _spelt(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
