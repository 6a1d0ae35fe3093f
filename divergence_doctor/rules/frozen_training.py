"""Does any step change a weight?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.rules._producer import figure, measured
from divergence_doctor.rules._rule import Evidence, Example, Finding, Rule, Site
from divergence_doctor.rules._symptoms import MOST_SHOWN, listed
from divergence_doctor.trace.synthetic import training_trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from divergence_doctor.trace import Trace
    from divergence_doctor.trace.table import Table


@final
class FrozenTraining(Rule):
    """Steps are taken, and no weight changes by a single bit.

    A symptom. Either loss scaling skips every step, or the updates come to exactly zero: a learning
    rate of 0, gradients of 0, or updates too small for the precision of the weights.

    Why it diverges: it does not, it never moves. Loss scaling skips a step whose gradients are not
    finite and halves its scale; at a scale of 1 it cannot go lower and skips for ever (then the
    run counts as diverged, and what makes the gradients non-finite is the cause). An update below
    half of the last digit of a weight is rounded away, in float16 below one part in two thousand.

    Evidence: `steps/skipped` in every step; or `updates/l2` of exactly 0 for every trainable
    variable in every step that was not skipped; or the same for at least half of the variables
    whose gradient (`gradients/l2`) is not 0. At least 2 steps: one may be an accident.

    Fix: by its reason. A rate of 0: look at the schedule and at `optimizer.learning_rate`.
    Gradients of 0: dead units, a `stop_gradient`, a loss that does not hang on the model. Rounding:
    keep the weights in float32, `keras.config.set_dtype_policy("mixed_float16")`. Skipped steps:
    mend what is not finite; `keras.optimizers.LossScaleOptimizer(inner, initial_scale=1.0)` shows
    whether it is the scale.

    Mistaken for: convergence; a learning rate that is too low; a broken data pipeline.

    Seen in: tensorflow/tensorflow#38357 and keras-team/keras#16100 (stuck at a loss scale of 1).
    """

    id = "frozen-training"
    code = "DD806"
    symptom = True
    needs = frozenset({"steps", "updates/l2"})

    #: Steps that must have been taken.
    STEPS: ClassVar[int] = 2
    #: Share of the variables with a gradient that do not move.
    SHARE: ClassVar[float] = 0.5
    #: No bit changed.
    WHOLE: ClassVar[float] = 0.95
    #: Some weights do move.
    PART: ClassVar[float] = 0.75

    def examine(self, trace: Trace) -> Finding | None:
        """Return why nothing moves, or None."""
        steps = trace.table("steps")
        steps = steps.where(np.asarray([not text for text in steps["raised"]], dtype=bool))
        if len(steps) < self.STEPS:
            return None
        if steps["skipped"].all():
            return self._skipped(steps)
        taken = steps.where(~steps["skipped"] & steps["state_finite"])
        if len(taken) < self.STEPS:
            return None
        return self._still(trace, taken)

    def _skipped(self, steps: Table) -> Finding:
        scales = steps["loss_scale"]
        return Finding(
            cause=self.id,
            summary=f"Loss scaling skipped all {len(steps)} steps, while it went from a scale of "
            f"{figure(scales[0])} to {figure(scales[-1])}, and no weight changed.",
            confidence=self.WHOLE,
            stage="update",
            site=Site(step=int(steps["step"][0])),
            evidence=(
                Evidence("steps that loss scaling skipped", len(steps), "/steps/skipped"),
                measured("loss scale before the last of them", scales[-1], "/steps/loss_scale"),
            ),
            remedies=(
                (
                    "Mend what makes the gradients non-finite: at a scale of 1 it is not the "
                    "scale. In between, more steps (`doctor replay ... --steps 40`) tell."
                ),
            ),
        )

    def _still(self, trace: Trace, taken: Table) -> Finding | None:
        updates = _in_steps(trace.table("updates"), taken)
        names = list(dict.fromkeys(str(name) for name in updates["variable"]))
        moved = {
            str(name) for name in updates["variable"][~(updates["l2"] == 0)]
        }  # NaN is no standstill
        still = [name for name in names if name not in moved]
        if not still:
            return None
        gradients = _in_steps(trace.table("gradients"), taken)
        pulled = {str(name) for name in gradients["variable"][~(gradients["l2"] == 0)] if str(name)}
        lost = [name for name in still if name in pulled]
        whole = len(still) == len(names)
        if not whole and len(lost) < self.SHARE * max(len(pulled & set(names)), 1):
            return None
        rates = taken["learning_rate"]
        reason, remedy = _reason(rates, lost)
        what = (
            f"none of {len(names)} trainable variables"
            if whole
            else f"{len(still)} of {len(names)} trainable variables do not move: {listed(still)}"
        )
        count = len(taken)
        return Finding(
            cause=self.id,
            summary=f"In {count} steps {what}{' changed by a single bit' if whole else ''}; "
            f"{reason}.",
            confidence=self.WHOLE if whole else self.PART,
            stage="update",
            site=Site(step=int(taken["step"][0]), variable=still[0]),
            evidence=(
                Evidence("variables whose updates are exactly 0", len(still), "/updates/l2"),
                Evidence("of them with a gradient that is not 0", len(lost), "/gradients/l2"),
                measured("learning rate", float(rates[-1]), "/steps/learning_rate"),
                *(
                    Evidence(f"L2 of the updates of {name}", 0.0, "/updates/l2")
                    for name in (() if whole else lost[:MOST_SHOWN])
                ),
            ),
            remedies=(remedy,),
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return a rate of 0, updates that are rounded away, and steps that are all skipped."""
        return (
            Example(
                "a learning rate of 0",
                lambda: training_trace(losses=(1.0, 1.0), update_ratio=0.0, learning_rate=0.0),
            ),
            Example(
                "updates that the weights' precision rounds away",
                lambda: training_trace(losses=(1.0, 1.0), update_ratio=0.0),
            ),
            Example("loss scaling skips every step", _all_skipped),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return a run that moves, a single step, and a skipped step among others."""
        return (
            Example("a healthy run", training_trace),
            Example("one step", lambda: training_trace(losses=(1.0,), update_ratio=0.0)),
            Example("a step that stood still and one that did not",
                    lambda: training_trace(losses=(1.0, 0.9, 0.8), update_ratio=(0.0, 1e-3))),
        )  # fmt: skip


_SCHEDULE: Final = (
    "Look at the schedule, and at what the rate is: `float(model.optimizer.learning_rate)`."
)
_CUT_OFF: Final = (
    "The loss does not hang on the weights: look for dead units, `keras.ops.stop_gradient`, a "
    "rounding or an `argmax` between them."
)
_ROUNDED: Final = (
    "Keep the weights in float32 and compute in half precision only: "
    '`keras.config.set_dtype_policy("mixed_float16")`.'
)


def _in_steps(table: Table, steps: Table) -> Table:
    return table.where(np.isin(table["step"], steps["step"]))


def _reason(rates: NDArray[Any], lost: list[str]) -> tuple[str, str]:
    """Return why updates are 0, and what to do."""
    if len(rates) and (rates == 0).all():
        return "the learning rate is 0", _SCHEDULE
    if not lost:
        return "every gradient is 0", _CUT_OFF
    rate = figure(float(rates[-1])) if len(rates) and math.isfinite(rates[-1]) else "unknown"
    why = f"their gradients are not 0 and the learning rate is {rate}, so the updates are below "
    return f"{why}the last digit of the weights", _ROUNDED


def _all_skipped() -> Trace:
    trace = training_trace(losses=(1.0, 1.0, 1.0), update_ratio=0.0)
    steps = trace.table("steps")
    steps["skipped"][:] = True
    steps["loss_scale"][:] = (4.0, 2.0, 1.0)
    return trace
