"""Did it diverge? Looks at the steps so far: non-finite, impossible, raised, or running away."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from divergence_doctor.trace import TraceBuilder

#: A loss this many times its first value, and still rising, runs away: ten steps at x2 a step.
RUNAWAY: Final = 1e3
#: Rounding alone brings no loss further below zero than this.
BELOW_ZERO: Final = -1e-3
#: Losses below this are as good as zero: rising from there to an ordinary value is no runaway.
SMALL: Final = 1e-3
#: A loss that rose this much and then stands still on a dead output has collapsed.
COLLAPSED: Final = 1e2
#: A step this long against the weights leaves nothing of them.
REPLACED: Final = 1.0
#: Float16's smallest normal number. Keras halves the loss scale without end, also below 1; scaled
#: by less than this, an ordinary gradient loses its digits, so no step is to be hoped for.
LEAST_SCALE: Final = 2.0**-14
#: A loss that rose this much and neither falls nor runs away leaves the question open.
UNDECIDED: Final = 10.0

#: Keras' own losses that cannot fall below zero on labels they are made for.
NEVER_NEGATIVE: Final = frozenset(
    {
        "BinaryCrossentropy",
        "BinaryFocalCrossentropy",
        "CategoricalCrossentropy",
        "CategoricalFocalCrossentropy",
        "CategoricalHinge",
        "Dice",
        "Hinge",
        "Huber",
        "LogCosh",
        "MeanAbsoluteError",
        "MeanAbsolutePercentageError",
        "MeanSquaredError",
        "MeanSquaredLogarithmicError",
        "SparseCategoricalCrossentropy",
        "SquaredHinge",
        "Tversky",
    }
)


def runaway(losses: Sequence[float]) -> tuple[int, str] | None:
    """Return (step, why) when finite losses run away or collapse, else None.

    A loss runs away when it ends far above where it began and is not on its way back; a catapult
    that recovers falls again. It has collapsed when it rose and then stands still to the last bit.

    Args:
        losses: loss of each step, all finite.
    """
    if len(losses) < 2:
        return None
    first, last = abs(losses[0]), abs(losses[-1])
    floor = max(first, SMALL)
    peak = max(abs(loss) for loss in losses)
    start = next(
        (i for i, loss in enumerate(losses) if abs(loss) > UNDECIDED * floor), len(losses) - 1
    )
    tail = [abs(loss) for loss in losses[-4:]]
    recovering = len(tail) == 4 and all(after < before for before, after in pairwise(tail))
    if last > RUNAWAY * floor and not recovering:
        growth = (last / floor) ** (1 / (len(losses) - 1))
        return start, (
            f"the loss runs away: {losses[0]:.4g} to {losses[-1]:.4g} in {len(losses)} steps, "
            f"x{growth:.3g} a step"
        )
    stuck = len(losses) > 3 and len(set(losses[-3:])) == 1
    if peak > COLLAPSED * floor and stuck:
        return start, f"the loss rose to {peak:.4g} and the output collapsed to a constant"
    return None


def wrecked(losses: Sequence[float], ratios: Sequence[float]) -> tuple[int, str] | None:
    """Return (step, why) when steps replaced the weights and the loss did not come back, else None.

    A catapult, or the spike of a fresh optimizer, leaves most of the weights where they were. After
    a step as long as the weights themselves a loss that stays up is a training begun anew, from a
    worse place.

    Args:
        losses: loss of each step, all finite.
        ratios: L2 of each step's update over L2 of the weights before it.
    """
    floor = max(abs(losses[0]), SMALL) if losses else SMALL
    peak = max((abs(loss) for loss in losses), default=0.0)
    longest = max((r for r in ratios if math.isfinite(r)), default=0.0)
    if not (peak > COLLAPSED * floor and abs(losses[-1]) > UNDECIDED * floor):
        return None
    if longest < REPLACED:
        return None
    start = next(i for i, loss in enumerate(losses) if abs(loss) > UNDECIDED * floor)
    return start, (
        f"a step {longest:.3g} times as long as the weights took the loss from {losses[0]:.4g} to "
        f"{peak:.4g}, and it still stands at {losses[-1]:.4g} after {len(losses)} steps"
    )


def of_both(
    reference: Mapping[str, Any], failed: tuple[int, str] | None, *, mode: str, finite: bool
) -> dict[str, Any]:
    """Return what came of the run, given the reference's verdict and how it went as trained.

    The outcome is about the run. A run that fails in either execution diverged, and the sentence
    says in which. One that failed while finite (a runaway) is left to the reference: how far finite
    losses get is a matter of rounding.

    Args:
        reference: the context's ``outcome``, ``failing_step`` and ``outcome_because``.
        failed: step and reason of the failure as trained; None where it stayed finite.
        mode: how it was trained, in words.
        finite: the reference failed while loss and state were finite.
    """
    because = str(reference["outcome_because"])
    if reference["outcome"] == "diverged":
        if failed is not None or finite:
            return {"failing_execution": "both"}
        return {
            "failing_execution": "reference",
            "outcome_because": f"{because}; so it is in the reference execution, op by op: as "
            f"trained, {mode}, the loss and the state stay finite",
        }
    if failed is None:
        return {"failing_execution": ""}
    step, why = failed
    return {
        "outcome": "diverged",
        "failing_step": step,
        "failing_execution": "as-trained",
        "outcome_because": f"as trained, {mode}, {why}; in the reference execution, op by op, the "
        "loss and the state stay finite",
    }


@final
class Judge:
    """Says after each step whether to go on, and in the end what came of it.

    Args:
        builder: the trace as it grows.
    """

    def __init__(self, builder: TraceBuilder) -> None:
        self._builder = builder
        self._failed: tuple[int, str] | None = None

    def settled(self, step: int, *, asked: int) -> bool:
        """Say whether the replay ends with this step."""
        row = self._builder.rows("steps")[-1]
        why = _failure(row, self._corrupt_before())
        if why is not None:
            self._failed = (step, why)
            return True
        if row["skipped"] and step + 1 >= asked:
            if row["loss_scale"] <= LEAST_SCALE:
                self._failed = (
                    0,
                    (
                        f"loss scaling skipped all {step + 1} steps, down to a scale of "
                        f"{row['loss_scale']:.4g}: no step can ever take effect"
                    ),
                )
                return True
            return not all(other["skipped"] for other in self._builder.rows("steps"))
        return step + 1 >= asked

    def verdict(self) -> dict[str, Any]:
        """Return outcome, failing step and the sentence they rest on, for the context."""
        steps = self._builder.rows("steps")
        failed = self._failed or self._finite_failure()
        if failed is not None:
            return {"outcome": "diverged", "failing_step": failed[0], "outcome_because": failed[1]}
        losses = [row["loss"] for row in steps]
        rose = len(losses) > 1 and abs(losses[-1]) > UNDECIDED * max(abs(losses[0]), SMALL)
        if rose and not steps[-1]["skipped"]:
            return {
                "outcome": "inconclusive",
                "failing_step": None,
                "outcome_because": f"the loss rose from {losses[0]:.4g} to {losses[-1]:.4g} in "
                f"{len(losses)} steps and stayed finite; more steps (--steps) would decide",
            }
        skipped = sum(row["skipped"] for row in steps)
        note = f"; loss scaling skipped {skipped} while it searched" if skipped else ""
        span = f"{losses[0]:.4g} to {losses[-1]:.4g}"
        return {
            "outcome": "healthy",
            "failing_step": None,
            "outcome_because": f"loss, gradients and state stayed finite over {len(steps)} "
            f"step{'s' if len(steps) > 1 else ''} (loss {span}){note}",
        }

    def _corrupt_before(self) -> str:
        """Name the first variable that was already bad before step 0."""
        for row in self._builder.rows("weights"):
            if row["step"] == 0 and row["when"] == "before":
                if row["nan"] or row["posinf"] or row["neginf"]:
                    return str(row["variable"])
                if "variance" in row["variable"].rpartition("/")[2] and row["negative"]:
                    return str(row["variable"])
        return ""

    def _finite_failure(self) -> tuple[int, str] | None:
        losses = [row["loss"] for row in self._builder.rows("steps")]
        targets = self._builder.rows("targets")
        terms = {row["name"] for row in self._builder.rows("losses")}
        bounded = targets and all(row["loss"] in NEVER_NEGATIVE for row in targets)
        if bounded and not any(name.startswith("add_loss/") for name in terms):
            below = next((i for i, loss in enumerate(losses) if loss < BELOW_ZERO), None)
            if below is not None:
                return below, (
                    f"the loss is {losses[below]:.4g}: {targets[0]['loss']} cannot be negative on "
                    "labels in its domain"
                )
        steps = self._builder.rows("steps")
        ratios = [
            row["update_norm"] / row["weight_norm"] if row["weight_norm"] > 0 else math.nan
            for row in steps
        ]
        return runaway(losses) or wrecked(losses, ratios)


def _failure(row: dict[str, Any], corrupt: str) -> str | None:
    step = row["step"]
    if row["raised"]:
        place = f" in {row['raised_op']}" if row["raised_op"] else ""
        return f"step {step} raised {row['raised_type']}{place}: {row['raised'][:200]}"
    if not math.isfinite(row["loss"]):
        return f"the loss of step {step} is {row['loss']}"
    if not row["state_finite"]:
        if step == 0 and corrupt:
            return f"{corrupt} holds values that cannot be before the first step"
        return f"the loss of step {step} is finite ({row['loss']:.4g}), the state after it is not"
    if not row["gradients_finite"] and not row["skipped"]:
        return f"the loss of step {step} is finite ({row['loss']:.4g}), its gradients are not"
    return None
