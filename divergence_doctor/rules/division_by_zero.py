"""Was something divided by zero, or zero by zero?"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.rules import _batch
from divergence_doctor.rules._producer import (
    bad_output,
    came_in,
    figure,
    forward_fault,
    left_out,
    measured,
    producer_of,
    proofs,
)
from divergence_doctor.rules._rule import Evidence, Example, Finding, Proof, Rule
from divergence_doctor.rules._singular import DIVISIONS, negligible
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.rules._producer import Operand, Producer
    from divergence_doctor.trace import Trace

_AVERAGES: Final = frozenset({"Mean", "AvgPool", "SegmentMean"})
_NO_NUMERATOR: Final = frozenset({"Reciprocal", "Inv", "Rsqrt"})


@final
class DivisionByZero(Rule):
    """Something was divided by zero: x/0 gives infinity, 0/0 gives NaN.

    The first bad value of the step comes out of a division (RealDiv, Xdivy, Reciprocal, Rsqrt,
    FloorMod, a negative power) whose denominator at that element is zero, or out of a mean over no
    elements at all.

    Why it diverges: a mask that is empty, a norm or a variance that is zero, a loss term that has
    reached 0 make a denominator that is exactly 0. Multiplying the result by 0 afterwards does not
    help, since 0 * NaN and 0 * inf are NaN.

    Evidence: `events` (primary, op type), `operands/value` and `operands/zero` of the denominator;
    `operands/size` of 0 for an empty mean. As good as zero is a denominator below 1/sqrt(max) of
    its dtype (5.4e-20 in float32): it throws every ordinary numerator out of range. An epsilon of
    at most 1e-6 that stands alone in the denominator, and overflows a large numerator, is told with
    less confidence. So is a division by as little that stayed finite (`divisions`), where something
    else broke on its result.

    Fix: `tf.math.divide_no_nan(total, count)`, or `total / tf.maximum(count, 1.0)` where the
    denominator counts something; `x * tf.math.rsqrt(tf.maximum(sum_sq, 1e-12))` for a norm.

    Mistaken for: bad data, because it comes and goes with the batch: the last, smaller batch, or
    the one without any object in it. A built-in `keras.layers.LayerNormalization` or
    `BatchNormalization` that divides by its own zero variance is `degenerate-normalization`.

    Seen in: keras-team/keras#3270 (a masked mean over an empty mask),
    YunYang1994/tensorflow-yolov3#225 (the IoU of two boxes of no size), liupei101/TFDeepSurv#15 (no
    event in the batch), keras-team/keras#1244 (a batch of 0 items).
    """

    id = "division-by-zero"
    code = "DD202"
    needs = frozenset({"steps"})

    #: The division that went bad and its zero are both on record.
    SEEN: ClassVar[float] = 0.95
    #: In half precision the 0 may be an epsilon that was rounded away: the precision is a suspect.
    LOW_PRECISION: ClassVar[float] = 0.7
    #: Inside a normalisation layer the zero variance is that layer's own matter.
    NORMALISATION: ClassVar[float] = 0.7
    #: Only the guarding epsilon is left below the line; what made the numerator large is open.
    GUARD_ALONE: ClassVar[float] = 0.55
    #: Guards that people write: 1e-6 and less.
    GUARD: ClassVar[float] = 1e-6

    def examine(self, trace: Trace) -> Finding | None:
        """Return the division by zero, or None."""
        empty = _empty(trace)
        if empty is not None:
            return self._finding(*empty, _empty_sentence(empty[0]), self.SEEN)
        producer = forward_fault(trace)
        return (self._direct(producer) if producer is not None else None) or self._behind(trace)

    def _direct(self, producer: Producer) -> Finding | None:
        """Return the division that made the first bad value."""
        denominator = _denominator(producer)
        if denominator is None:
            return None
        value = denominator.nearest(0.0)
        if abs(value) <= negligible(denominator.dtype):
            sentence = _sentence(producer, denominator)
            return self._finding(producer, denominator, sentence, self._sure(producer, denominator))
        if abs(value) <= self.GUARD and producer.op_type not in _NO_NUMERATOR:
            return self._finding(
                producer, denominator, _guard_sentence(producer, denominator), self.GUARD_ALONE
            )
        return None

    def _behind(self, trace: Trace) -> Finding | None:
        """Return the division whose result, finite but enormous, something else broke on."""
        if trace.outcome != "diverged" or came_in(trace):
            return None
        found = trace.table("divisions")
        found = found.where(np.abs(found["denominator"]) <= self.GUARD)
        if not len(found):
            return None
        first = found.select(step=int(found["step"].min()))
        row = first.row(int(np.argmax(np.abs(first["quotient"]))))
        at = _batch.place(trace)
        place = f"in layer {row['layer']!r}" if row["layer"] else f"in the {row['phase']}"
        place += f" at {row['source']}" if row["source"] else ""
        samples = tuple(int(sample) for sample in json.loads(row["samples"] or "[]"))
        then = f"{at.op} then overflowed" if at.op else "the loss then ran away"
        of = f"; {_batch.named(samples)}" if samples else ""
        return Finding(
            cause=self.id,
            summary=(
                f"{row['op_type']} {place} divided {figure(row['numerator'])} by "
                f"{figure(row['denominator'])}, as good as 0, in step {row['step']}, which gave "
                f"{figure(row['quotient'])}; {then}{of}."
            ),
            confidence=self.GUARD_ALONE,
            stage="loss" if row["phase"] == "loss" else "forward",
            site=at,
            samples=samples,
            evidence=(
                measured("denominator", row["denominator"], "/divisions/denominator"),
                measured("numerator", row["numerator"], "/divisions/numerator"),
                measured("quotient", row["quotient"], "/divisions/quotient"),
            ),
            remedies=_COUNTED,
            proofs=(
                Proof(
                    "safe-op",
                    {
                        "op_type": row["op_type"],
                        "layer": row["layer"],
                        "source": row["source"],
                        "almost": self.GUARD,
                    },
                ),
            ),
        )

    def _sure(self, producer: Producer, denominator: Operand) -> float:
        if denominator.low_precision:
            return self.LOW_PRECISION
        if producer.layer_class.endswith("Normalization"):
            return self.NORMALISATION
        return self.SEEN

    def _finding(
        self, producer: Producer, denominator: Operand, sentence: str, confidence: float
    ) -> Finding:
        return Finding(
            cause=self.id,
            summary=sentence,
            confidence=confidence,
            stage=producer.stage,
            site=producer.site,
            samples=producer.blamed,
            evidence=(*_evidence(producer, denominator), bad_output(producer)),
            remedies=_remedies(producer, denominator),
            proofs=proofs(producer) if confidence > self.GUARD_ALONE else self._guarded(producer),
        )

    def _guarded(self, producer: Producer) -> tuple[Proof, ...]:
        """Return the trials for a denominator that is not 0: its epsilon has to go as well."""
        safe = {"op_type": producer.op_type, "layer": producer.layer, "source": producer.source}
        return (Proof("safe-op", {**safe, "almost": self.GUARD}), *left_out(producer))

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return the four ways to get there."""
        return (
            Example("a masked mean over an empty mask: 0/0", _empty_mask),
            Example("a relative error with a target of 0: x/0", _relative),
            Example("the inverse square root of an isolated node's degree", _rsqrt),
            Example("a mean over a batch of no items", _no_items),
            Example("zero to the power -0.5", _power),
            Example("an epsilon of 1e-7 that stands alone below the line", _guard),
            Example("the same, finite, until a layer overflows two steps later", _behind),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return divisions that are fine, or not to blame."""
        return (
            Example("a healthy run", training_trace),
            Example("a quotient that overflows because its numerator is 1e38", _overflow),
            Example("the inverse square root of a negative number", _negative),
            Example("a division by zero in the optimizer's update", _update),
            Example("a derivative that divides by zero", _derivative),
            Example("a healthy run that divides by its epsilon", _harmless),
        )


def _empty(trace: Trace) -> tuple[Producer, Operand] | None:
    """Return the average over no elements, if that is what happened.

    A loss over no elements is finite; what the layers average over none reaches only the state.
    """
    producer = producer_of(trace)
    if producer is None or producer.derivative or producer.op_type not in _AVERAGES:
        return None
    operand = producer.input(0)
    return (producer, operand) if operand is not None and operand.size == 0 else None


def _denominator(producer: Producer) -> Operand | None:
    if producer.op_type == "Pow":
        base, exponent = producer.input(0), producer.input(1)
        negative = exponent is not None and exponent.smallest() < 0
        return base if negative else None
    operand = producer.input(DIVISIONS.get(producer.op_type, -1))
    if operand is None:
        return None
    negative = producer.op_type == "Rsqrt" and operand.nearest(0.0) < 0
    return None if negative else operand


def _numerator(producer: Producer) -> float:
    operand = producer.input(0)
    if operand is None or producer.op_type in {*_NO_NUMERATOR, "Pow"}:
        return math.nan
    return operand.value


def _sentence(producer: Producer, denominator: Operand) -> str:
    numerator = _numerator(producer)
    value = denominator.nearest(0.0)
    zero = "0" if value == 0 else f"{figure(value)}, as good as 0,"
    over = f"{figure(numerator)} by {zero}" if math.isfinite(numerator) else f"by {zero}"
    verb = {"Pow": "raised 0 to a negative power", "Rsqrt": "took 1/sqrt of 0"}.get(
        producer.op_type, f"divided {over}"
    )
    came = denominator.came_from
    return (
        f"{producer.op_type} {producer.place} {verb}"
        f"{f'; the denominator {came}' if came else ''}"
        f" ({denominator.zero} of {denominator.size} are 0){producer.whom}."
    )


def _guard_sentence(producer: Producer, denominator: Operand) -> str:
    return (
        f"{producer.op_type} {producer.place} divided by {figure(denominator.nearest(0.0))}, the "
        f"guarding epsilon with nothing added to it, and a numerator of "
        f"{figure(_numerator(producer))} overflowed{producer.whom}."
    )


def _empty_sentence(producer: Producer) -> str:
    return (
        f"{producer.op_type} {producer.place} was taken over no elements at all, which is 0/0; "
        f"the batch holds {producer.batch_size} samples."
    )


def _evidence(producer: Producer, denominator: Operand) -> tuple[Evidence, ...]:
    if denominator.size == 0:
        return (
            measured("elements averaged", denominator.size, "/operands/size"),
            measured("samples in the batch", producer.batch_size, "/samples"),
        )
    found = [
        measured(
            "denominator at the first bad element", denominator.nearest(0.0), "/operands/value"
        ),
        measured("zeros in the denominator", denominator.zero, "/operands/zero"),
    ]
    if math.isfinite(_numerator(producer)):
        found.append(measured("numerator there", _numerator(producer), "/operands/value"))
    return tuple(found)


_COUNTED: Final = (
    "Where the denominator counts something: `total / tf.maximum(count, 1.0)`.",
    (
        "Where it is a scale (a deviation, a norm): keep it from shrinking to nothing, "
        "`tf.maximum(scale, 1e-3)`, or `tf.math.softplus(raw) + 1e-3` for a predicted one."
    ),
)


def _remedies(producer: Producer, denominator: Operand) -> tuple[str, ...]:
    if denominator.size == 0:
        return (
            (
                "Never hand the model an empty batch: `dataset.batch(n, drop_remainder=True)`, or "
                "skip it in the generator."
            ),
        )
    if producer.op_type in {"Rsqrt", "Pow"}:
        return (
            (
                "Keep the argument away from 0: `tf.math.rsqrt(tf.maximum(x, 1e-12))`, or "
                "`keras.ops.normalize(x)` for a norm."
            ),
            (
                "A degree or a norm of 0 belongs to an isolated or empty row: give it a self loop, "
                "or set its weight to 0 with `tf.where(x > 0, ..., 0)` on the INPUT of the root."
            ),
        )
    guard = "0 by a bare epsilon" if denominator.zero == 0 else "0/0"
    return (
        _COUNTED[0],
        f"Where {guard} should count as 0: `tf.math.divide_no_nan(total, count)`.",
        (
            "Multiplying by a mask after the division does not help, since 0 * NaN is NaN: put "
            "`safe = tf.where(mask, d, 1.0)` below the line in place of `d`."
        ),
    )


def _empty_mask() -> Trace:
    event = SyntheticEvent(
        "RealDiv", source="losses.py:17", inputs=(0.0, 0.0), input_values=(0.0, 0.0)
    )
    return training_trace(losses=(math.nan,), events=(event,))


def _relative() -> Trace:
    event = SyntheticEvent(
        "RealDiv",
        samples=(2,),
        inputs=([0.3, -0.1, 1.5], [1.0, 2.0, 0.0]),
        input_values=(1.5, 0.0),
        outputs=([0.3, -0.05, math.inf],),
    )
    return training_trace(losses=(math.inf,), events=(event,))


def _rsqrt() -> Trace:
    event = SyntheticEvent(
        "Rsqrt",
        phase="forward",
        layer="gcn",
        inputs=([2.0, 0.0],),
        input_values=(0.0,),
        outputs=([0.7, math.inf],),
    )
    return training_trace(losses=(math.nan,), events=(event,))


def _no_items() -> Trace:
    event = SyntheticEvent("Mean", inputs=([],), input_values=(math.nan,))
    return training_trace(losses=(math.nan,), events=(event,))


def _power() -> Trace:
    event = SyntheticEvent(
        "Pow", inputs=([0.0, 4.0], -0.5), input_values=(0.0, -0.5), outputs=([math.inf, 0.5],)
    )
    return training_trace(losses=(math.inf,), events=(event,))


def _guard() -> Trace:
    event = SyntheticEvent(
        "RealDiv", inputs=(2e32, 1e-7), input_values=(2e32, 1e-7), outputs=(math.inf,)
    )
    return training_trace(losses=(7e6, 2e19, math.inf), events=(event,))


def _division(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "op_type": "RealDiv",
        "phase": "loss",
        "source": "losses.py:9",
        "numerator": 0.7,
        "denominator": 1e-7,
        "quotient": 7e6,
        "samples": "[]",
    }


def _behind() -> Trace:
    event = SyntheticEvent("Conv2D", phase="forward", layer="head", outputs=(math.nan,))
    return training_trace(
        losses=(7e6, 2e19, math.nan), events=(event,), divisions=(_division(0), _division(1))
    )


def _harmless() -> Trace:
    return training_trace(divisions=(_division(0),))


def _overflow() -> Trace:
    event = SyntheticEvent(
        "RealDiv", inputs=(3e38, 0.5), input_values=(3e38, 0.5), outputs=(math.inf,)
    )
    return training_trace(losses=(math.inf,), events=(event,))


def _negative() -> Trace:
    event = SyntheticEvent("Rsqrt", inputs=([-1.0, 2.0],), input_values=(-1.0,))
    return training_trace(losses=(math.nan,), events=(event,))


def _update() -> Trace:
    event = SyntheticEvent("RealDiv", phase="update", reaches="state", inputs=(0.0, 0.0))
    return training_trace(losses=(0.4,), outcome="diverged", events=(event,))


def _derivative() -> Trace:
    event = SyntheticEvent(
        "RealDiv", phase="backward", derivative=True, reaches="gradient", inputs=([1.0], [0.0])
    )
    return training_trace(losses=(0.4,), outcome="diverged", events=(event,))
