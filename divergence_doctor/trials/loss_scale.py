"""Does the step live with the loss scale off, or held at another value?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, final

from divergence_doctor.replay.loss_scale import fixed, scales
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from divergence_doctor.replay.bench import Bench


@final
class LossScale(Trial):
    """Holds the loss scale at one value: ``{"scale": 1.0}``, off, is the default.

    A power of two changes no digit of a gradient, only its range. No step is skipped.
    """

    name: ClassVar[str] = "loss-scale"
    breadth: ClassVar[int] = 1

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps with the loss multiplied by that scale and the gradients divided by it."""
        scale = float(parameters.get("scale", 1.0))
        changed = "loss scaling off" if scale == 1 else f"loss scale held at {scale:g}"
        if scale == 1 and not scales(bench.model):
            return Outcome.not_run(changed, "no optimizer of the model scales the loss")
        return Outcome.of(changed, bench.run(prepare=lambda: fixed(bench.model, scale)))
