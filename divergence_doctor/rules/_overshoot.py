"""Was the step too long for where it was taken? What was measured along the real updates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, final

from divergence_doctor.rules._producer import measured

if TYPE_CHECKING:
    from divergence_doctor.rules._rule import Evidence
    from divergence_doctor.trace import Trace

#: q = 0.5 D'HD / |g'D| along the real update D. Measured on small networks: healthy training 0 to
#: 0.3, the edge of stability 0.96 to 1.01 (there q = 1 is the curvature 2 / rate), a catapult that
#: recovers 1.96, diverging steps 5.7 and up, mostly above 30.
FINE: Final = 0.5
SUSPECT: Final = 4.0
#: What the loss did as a multiple of what the gradient promised, 1 - q on a parabola; it stands in
#: where the curvature cannot be had, or is below zero where the loss is no parabola.
GAIN_FINE: Final = 1.0 - FINE
GAIN_SUSPECT: Final = 1.0 - SUSPECT


@final
@dataclass(frozen=True, slots=True)
class Direction:
    """One measured update.

    Attributes:
        step: replayed step.
        loss, after: loss before it, and after it on the same batch.
        overshoot: q; NaN where the curvature could not be had.
        gain: what the loss did over what the gradient promised.
        longest: largest multiple that does not raise the loss; NaN where it was not asked for.
    """

    step: int
    loss: float
    after: float
    overshoot: float
    gain: float
    longest: float

    @property
    def zone(self) -> Literal["fine", "undecided", "suspect"]:
        """What the step alone says of its length."""
        rose = not self.after <= self.loss
        if not rose:
            return "fine" if abs(self.overshoot) < FINE or self.gain > GAIN_FINE else "undecided"
        # A loss that is lost altogether may have hit a singular point just there.
        steep = self.overshoot > SUSPECT or (
            math.isfinite(self.after) and self.gain <= GAIN_SUSPECT
        )
        return "suspect" if steep else "undecided"


def directions(trace: Trace) -> tuple[Direction, ...]:
    """Return the measured updates, in their order; empty where none was measured."""
    return tuple(
        Direction(
            step=row["step"],
            loss=row["loss"],
            after=row["loss_after"],
            overshoot=row["overshoot"],
            gain=row["gain"],
            longest=row["longest"],
        )
        for row in trace.table("directions").rows()
    )


def overshooting(trace: Trace) -> Direction | None:
    """Return the first measured update that was far too long, or None."""
    return next((found for found in directions(trace) if found.zone == "suspect"), None)


def all_fine(trace: Trace) -> bool:
    """Say whether updates were measured and every one of them did what its gradient promised."""
    found = directions(trace)
    return bool(found) and all(direction.zone == "fine" for direction in found)


def evidence(trace: Trace) -> tuple[Evidence, ...]:
    """Return the figures of the first update that was too long, or else of the first one."""
    found = overshooting(trace) or next(iter(directions(trace)), None)
    if found is None:
        return ()
    step = f"step {found.step}"
    said = [
        measured(
            f"change of the loss in {step} over what its gradient promised (1 for a short step)",
            found.gain,
            "/directions/gain",
        )
    ]
    if math.isfinite(found.overshoot):
        said.append(
            measured(
                f"overshoot 0.5 D'HD / |g'D| of {step} (healthy below {FINE}, suspect above "
                f"{SUSPECT:g})",
                found.overshoot,
                "/directions/overshoot",
            )
        )
    if math.isfinite(found.longest):
        said.append(
            measured(
                f"longest part of the update of {step} that does not raise the loss",
                found.longest,
                "/directions/longest",
            )
        )
    return tuple(said)


def mildest(trace: Trace, trial: str) -> tuple[float, float] | None:
    """Return the mildest setting that mended the steps, and the nearest that did not.

    Args:
        trace: a trace with trials.
        trial: ``lower-rate`` (the smallest divisor) or ``clip-gradients`` (the largest norm).

    Returns:
        (survives, fails); the second is NaN where every setting tried survives. None where none
        survived or none was tried.
    """
    rows: list[dict[str, Any]] = list(trace.table("attempts").select(trial=trial).rows())
    live = [row["value"] for row in rows if row["outcome"] == "finite"]
    die = [row["value"] for row in rows if row["outcome"] != "finite"]
    if not live:
        return None
    if trial == "lower-rate":
        return min(live), max((v for v in die if v < min(live)), default=math.nan)
    return max(live), min((v for v in die if v > max(live)), default=math.nan)
