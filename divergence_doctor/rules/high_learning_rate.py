"""Are the gradients ordinary and the steps too long?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final, final

from divergence_doctor.rules._overshoot import all_fine, evidence, mildest, overshooting
from divergence_doctor.rules._producer import came_in, figure, measured, primary_of
from divergence_doctor.rules._rule import Example, Finding, Proof, Rule, Site
from divergence_doctor.rules._runaway import (
    GROWN,
    WHOLE_RATIO,
    Pace,
    magnifies,
    pace,
)
from divergence_doctor.rules._singular import GROWING
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.rules._rule import Evidence
    from divergence_doctor.trace import Trace

#: What a healthy step changes of a weight matrix (Karpathy, "A Recipe for Training Neural
#: Networks"); the suggested rate aims at it.
_HEALTHY_RATIO: Final = 1e-3
#: Below the largest rate that lives for a few steps; rates are tuned over in steps of three.
_MARGIN: Final = 3.0


@final
class HighLearningRate(Rule):
    """The gradients are ordinary and the steps too long: each update overshoots.

    The first replayed step is sane: nothing grows through its layers. The updates are long measured
    by the weights they change, and the loss rises over the replayed steps, or all is lost after the
    first of them. Overflow, or a log of 0, is where it ends.

    Why it diverges: along a direction of curvature L a step of rate r multiplies the error by
    1 - r*L; beyond r = 2/L it grows from step to step and changes sign. Adam moves every weight by
    about r whatever the gradient: 1.0 is ten times a typical weight.

    Evidence: `updates/ratio` of weight matrices in the first two steps: 1e-3 is healthy (Karpathy),
    0.1 is suspect, 1 leaves nothing of what was learned; `steps/loss` at 10 times its first value
    or more; `steps/learning_rate` against Keras' default for the optimizer (SGD 0.01, most others
    0.001), with one decade either way counted as ordinary. Along the real update D of the first
    steps: `directions/overshoot`, q = 0.5 D'HD / |g'D|, is below 0.5 in healthy training, about 1
    at the edge of stability, 2 in a catapult that recovers, and above 4 (mostly 30) where the step
    diverges; `directions/gain` is 1 where the loss falls as the gradient promised, and 1 - q on a
    parabola; `directions/longest` is how much of the step would not have raised the loss. Between
    0.5 and 4 they say nothing, and the largest curvature against 2/r is not used: healthy training
    stands at that edge. Unproven this is a moderate suspicion, at most 0.85; replaying with smaller
    rates decides, and the largest that lives (`attempts`) is the one recommended. Where leaving one
    sample out mends the step, the rate is at most a contribution.

    Where such a rate is not ordinary and a step was as long as the weights, a log or a division
    that fails afterwards counts as its effect: it bore the weights of the checkpoint.

    Fix: a smaller rate, e.g. `keras.optimizers.Adam(learning_rate=1e-3)`; the finding names the
    largest at which the same steps live, or else one from the measured ratio. A warm-up helps where
    only the first steps are too long:
    `keras.optimizers.schedules.CosineDecay(0.0, n, warmup_target=1e-3, warmup_steps=1000)`.

    Mistaken for: nearly everything, since lowering the rate hides nearly everything for a while.
    One outlier sample or an unscaled target makes an ordinary rate too high (`unscaled-input`); a
    deep net that magnifies makes ordinary steps long (`exploding-gradient`); NaN at step 0 in the
    forward pass has nothing to do with it.

    Seen in: OpenNMT/OpenNMT-tf#744 (a rate of 2.0 meant for Noam decay, used without it),
    keras-team/keras#3040 (SGD 0.001 on inputs up to 199), OpenNMT/OpenNMT-tf#220.
    """

    id = "high-learning-rate"
    code = "DD301"
    #: Where too long steps drove the weights away, overflows of every kind are how it ends.
    explains = frozenset({"exp-overflow", "low-precision-overflow"})
    needs = frozenset({"steps/loss"})

    #: Where a rate far beyond the ordinary replaced the weights, the point at which the new ones
    #: failed is chance: the step before it was sane, on weights that had been trained.
    POINTS: ClassVar[frozenset[str]] = frozenset(
        {
            *("log-of-zero", "division-by-zero", "invalid-domain", "gradient-singularity"),
            *("degenerate-normalization", "loss-activation-mismatch"),
        }
    )
    #: So is a growth through the layers, unless the first step shows it, from before any update.
    GROWTHS: ClassVar[frozenset[str]] = frozenset({"exploding-activation", "exploding-gradient"})
    #: Unproven, at most; and what it starts from.
    MOST: ClassVar[float] = 0.85
    LEAST: ClassVar[float] = 0.5
    NONE: ClassVar[float] = 0.1
    #: A rate beyond ten, and beyond a hundred times Keras' default, each speaks for it.
    BEYOND_TEN: ClassVar[float] = 0.15
    BEYOND_HUNDRED: ClassVar[float] = 0.1
    #: So does a loss that rose a hundredfold over two steps or more.
    ROSE: ClassVar[float] = 0.1
    #: An update was measured to overshoot far (q above 4): that is seen, not inferred.
    OVERSHOT: ClassVar[float] = 0.15
    #: Every measured update did what its gradient promised: what failed then is something else.
    ALL_FINE: ClassVar[float] = 0.3
    #: A singular op at the end, with no rise of the loss before it, speaks against it.
    SINGULAR: ClassVar[float] = 0.15
    #: Nor is it the first suspect where an ordinary rate lost all at once.
    AT_ONCE: ClassVar[float] = 0.1
    #: Smaller rates to try, as divisors.
    FACTORS: ClassVar[tuple[int, ...]] = (10, 100, 1000, 10000)
    #: Halvings of the decade in which the largest surviving rate lies: to 10 ** (1 / 8), a third.
    HALVINGS: ClassVar[int] = 3

    def examine(self, trace: Trace) -> Finding | None:
        """Return the rate that is too high, or None."""
        if trace.outcome == "healthy":
            return None
        found = pace(trace)
        if found is None or not _usable(found):
            return None
        if _update_overflowed(trace, found):
            return self._finding(trace, found, _overflow_sentence(found), self.LEAST)
        grew = found.failing >= 1 and found.growth >= GROWN and overshooting(trace) is not None
        if not (found.ran_away or grew) or (found.ordinary and magnifies(trace)):
            return None
        if found.growth < GROWN and came_in(trace):
            return None
        return self._finding(trace, found, _sentence(trace, found), self._sure(trace, found))

    def asks(self, trace: Trace) -> frozenset[str]:
        """Return the loss along the update where the steps ran away, and may have been too long."""
        found = pace(trace)
        if trace.outcome == "healthy" or found is None or not _usable(found):
            return frozenset()
        away = found.ran_away or (found.failing >= 1 and found.growth >= GROWN)
        return frozenset({"directions"}) if away else frozenset()

    def _sure(self, trace: Trace, found: Pace) -> float:
        sure = self.LEAST
        if not found.ordinary:
            sure += self.BEYOND_TEN
        if found.excess >= 100:
            sure += self.BEYOND_HUNDRED
        if found.growth >= 100 and found.peak_step >= 2:
            sure += self.ROSE
        if overshooting(trace) is not None:
            sure += self.OVERSHOT
        elif all_fine(trace):
            sure -= self.ALL_FINE
        producer = primary_of(trace)
        if producer is not None and producer.op_type not in GROWING and found.growth < GROWN:
            sure -= self.SINGULAR
        if found.ordinary and found.growth < GROWN:
            sure -= self.AT_ONCE
        return round(min(max(sure, self.NONE), self.MOST), 3)

    def _finding(self, trace: Trace, found: Pace, summary: str, confidence: float) -> Finding:
        producer = primary_of(trace)
        at = producer.site if producer is not None else Site(step=found.failing)
        return Finding(
            cause=self.id,
            summary=summary,
            confidence=confidence,
            stage="update",
            site=Site(at.step, at.layer, at.op, at.source, found.variable or None),
            evidence=(*_evidence(found), *evidence(trace), *_survival(trace, found)),
            remedies=_remedies(trace, found),
            proofs=(
                Proof("lower-rate", {"factors": self._factors(found), "halvings": self.HALVINGS}),
            ),
            explains=(self.POINTS if _replaced(found) else frozenset())
            | (frozenset() if magnifies(trace) else self.GROWTHS),
            contributes_only=_one_sample(trace),
        )

    def _factors(self, found: Pace) -> list[int | float]:
        """Return the divisors to try; for an absurd rate also the one that makes it sane."""
        factors: list[int | float] = list(self.FACTORS)
        decades = math.ceil(math.log10(found.excess)) if found.excess > 0 else 0
        return factors if 10**decades <= factors[-1] else [*factors, 10.0**decades]

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return rates that are too high, with and without NaN."""
        return (
            Example("SGD at 1.0: the loss rises until a product overflows", _sgd),
            Example("Adam at 1.0: all is lost after one step", _adam),
            Example("Adam at 2.0: the loss jumps and stays on a dead output, no NaN", _collapsed),
            Example("a rate of 1e38 that overflows in the update itself", _update),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return short steps, an early failure, and a network that magnifies."""
        return (
            Example("a healthy run", training_trace),
            Example("a log of 0 at the first step", _first),
            Example("a log of 0 at the third step, with short steps", _short),
            Example("an ordinary rate on gradients that grow through depth", _magnifies),
            Example("a rate of NaN", _no_rate),
        )


def _usable(found: Pace) -> bool:
    """A rate that is no positive number is another matter."""
    rate = found.learning_rate
    return not math.isfinite(rate) or rate > 0


def _replaced(found: Pace) -> bool:
    return not found.ordinary and found.failing >= 1 and found.ratio >= WHOLE_RATIO


def _one_sample(trace: Trace) -> bool:
    """Leaving samples out mended the step: it is they that made the rate too high."""
    trials = trace.table("trials").select(name="drop-samples", outcome="finite")
    return bool(len(trials))


def _update_overflowed(trace: Trace, found: Pace) -> bool:
    """The step itself left the dtype: finite loss, finite gradients, an absurd rate."""
    if found.ordinary:
        return False
    events = trace.table("events").select(step=found.failing, phase="update", primary=True)
    steps = trace.table("steps").select(step=found.failing)
    sane = len(steps) and steps["loss_finite"][0] and steps["gradients_finite"][0]
    return bool(sane and any(op in _UPDATES or op in GROWING for op in events["op_type"]))


_UPDATES: Final = frozenset(
    {
        *("AssignAddVariableOp", "AssignSubVariableOp", "AssignVariableOp"),
        *("ResourceApplyGradientDescent", "ResourceApplyAdam", "ResourceApplyKerasMomentum"),
    }
)


def _against_default(found: Pace) -> str:
    if not math.isfinite(found.learning_rate):
        return "The learning rate"
    name = f"{found.optimizer}'s learning rate" if found.optimizer else "The learning rate"
    times = found.learning_rate / found.default_rate
    share = f"{figure(times)} times Keras' default" if times != 1 else "Keras' default"
    return f"{name} of {figure(found.learning_rate)} ({share})"


def _sentence(trace: Trace, found: Pace) -> str:
    moved = (
        f"{_against_default(found)} changed "
        f"{f'{found.variable!r}' if found.variable else 'the weights'} by {figure(found.ratio)} "
        "times its own norm in the first steps"
    )
    over = overshooting(trace)
    if over is not None:
        rise = figure(over.after) if math.isfinite(over.after) else "infinity"
        part = (
            f"{over.longest:.2g} of it would still have lowered it"
            if over.longest > 0
            else "no part of it lowers it"
        )
        moved += (
            f"; the update of step {over.step} took the loss of its own batch from "
            f"{figure(over.loss)} to {rise}"
        )
        moved += f", where {part}" if math.isfinite(over.longest) else ""
    if found.growth >= GROWN:
        return (
            f"{moved}, and the loss went from {figure(found.first_loss)} to "
            f"{figure(found.peak_loss)} by step {found.peak_step}."
        )
    return (
        f"{moved}; at a loss of {figure(found.first_loss)} nothing of the weights was left, and "
        f"step {found.failing} failed."
    )


def _overflow_sentence(found: Pace) -> str:
    return (
        f"{_against_default(found)} times finite gradients overflows in the update of step "
        f"{found.failing}; the loss of {figure(found.first_loss)} was still finite."
    )


def _evidence(found: Pace) -> tuple[Evidence, ...]:
    return (
        measured("learning rate", found.learning_rate, "/steps/learning_rate"),
        measured("Keras' default for this optimizer", found.default_rate, "keras.optimizers"),
        measured(
            "largest update over weight in the first steps (healthy: 1e-3)",
            found.ratio,
            "/updates/ratio",
        ),
        measured("first loss", found.first_loss, "/steps/loss"),
        measured("largest loss of the replayed steps", found.peak_loss, "/steps/loss"),
    )


def surviving_rate(trace: Trace, found: Pace) -> tuple[float, float] | None:
    """Return the largest rate at which the same steps lived, and the lowest that did not.

    Args:
        trace: a trace with trials.
        found: the pace of its steps.

    Returns:
        (lives, does not), the second the run's own rate where no other was tried; None where no
        rate was tried, none lived, or the run's rate is unknown.
    """
    divisors = mildest(trace, "lower-rate")
    rate = found.learning_rate
    if divisors is None or not math.isfinite(rate) or rate <= 0:
        return None
    lives, dies = divisors
    return rate / lives, rate / dies if math.isfinite(dies) else rate


def _survival(trace: Trace, found: Pace) -> tuple[Evidence, ...]:
    survived = surviving_rate(trace, found)
    if survived is None:
        return ()
    where = "/attempts/value"
    return (
        measured("largest learning rate at which the same steps live", survived[0], where),
        measured("smallest learning rate tried at which they do not", survived[1], where),
    )


def _rounded_down(value: float) -> float:
    """Return the largest number of two digits that is not above a positive one."""
    decade = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / decade * (1 + 1e-9)) * decade:.1e}")


def _remedies(trace: Trace, found: Pace) -> tuple[str, ...]:
    optimizer = found.optimizer or "Adam"
    survived = surviving_rate(trace, found)
    rate = f"{suggested_rate(found):g}"
    start = f"Start with `keras.optimizers.{optimizer}(learning_rate={rate})`."
    if survived is not None:
        lives = f"{_rounded_down(survived[0]):g}"
        start = (
            f"Go down to `keras.optimizers.{optimizer}(learning_rate={lives})`: the largest rate "
            f"at which the same steps live, and {survived[1]:.2g} is too much. A third of it "
            f"leaves room for other batches."
        )
        rate = f"{_rounded_down(survived[0] / _MARGIN):g}"
    return (
        start,
        (
            "If it trains with that, warm up to it: `keras.optimizers.schedules.CosineDecay("
            f"0.0, decay_steps, warmup_target={rate}, warmup_steps=1000)`."
        ),
        (
            "Look first for an outlier in the batch, and at the scale of inputs and targets: one "
            "sample can make an ordinary rate too high."
        ),
    )


def suggested_rate(found: Pace) -> float:
    """Return a rate at which the measured update would be 1e-3 of the weight, one digit.

    Never more than Keras' default where the rate lies above it, and a tenth of the present rate
    where nothing was measured.
    """
    rate = found.learning_rate
    if not math.isfinite(rate) or rate <= 0:
        return found.default_rate
    wanted = rate * _HEALTHY_RATIO / found.ratio if found.ratio > _HEALTHY_RATIO else rate / 10
    if rate > found.default_rate:
        wanted = min(wanted, found.default_rate)
    return float(f"{wanted:.0e}")


def _sgd() -> Trace:
    event = SyntheticEvent(
        "MatMul", phase="forward", layer="dense_1", inputs=([1e30],), outputs=([math.inf],)
    )
    return training_trace(
        losses=(2.3, 9e3, 4e11, math.inf),
        optimizer="SGD",
        learning_rate=1.0,
        update_ratio=(0.5, 40.0),
        events=(event,),
    )


def _adam() -> Trace:
    event = SyntheticEvent("Log", inputs=([0.0],), outputs=([-math.inf],))
    return training_trace(
        losses=(2.3, math.nan), learning_rate=1.0, update_ratio=WHOLE_RATIO * 12, events=(event,)
    )


def _collapsed() -> Trace:
    return training_trace(
        losses=(1.6, 1618.0, 1.61, 1.61, 1.61),
        learning_rate=2.0,
        update_ratio=20.0,
        outcome="diverged",
    )


def _update() -> Trace:
    event = SyntheticEvent("Mul", phase="update", reaches="state", outputs=([math.inf],))
    trace = training_trace(
        losses=(0.8,),
        learning_rate=1e38,
        outcome="diverged",
        update_ratio=math.nan,
        events=(event,),
    )
    trace.table("steps")["gradients_finite"][:] = True
    return trace


def _first() -> Trace:
    event = SyntheticEvent("Log", inputs=([0.0],), outputs=([-math.inf],))
    return training_trace(losses=(math.inf,), learning_rate=1.0, update_ratio=3.0, events=(event,))


def _short() -> Trace:
    event = SyntheticEvent("Log", inputs=([0.0],), outputs=([-math.inf],))
    return training_trace(losses=(0.7, 0.6, math.inf), events=(event,))


def _magnifies() -> Trace:
    return training_trace(
        losses=(0.7, 3e9, math.nan),
        optimizer="SGD",
        learning_rate=0.01,
        layers=tuple(f"dense_{i}" for i in range(12)),
        gradient_l2=tuple(0.1 * 4.3 ** (11 - i) for i in range(12)),
        update_ratio=1e4,
    )


def _no_rate() -> Trace:
    return training_trace(losses=(0.7, math.nan), learning_rate=-1.0, update_ratio=5.0)
