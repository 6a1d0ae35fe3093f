"""Is the forward pass fine while a derivative is infinite: sqrt at 0, a branch not taken?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.rules._producer import (
    bad_output,
    carried_on,
    derivative_fault,
    measured,
    proofs,
    read,
)
from divergence_doctor.rules._rule import Evidence, Example, Finding, Rule
from divergence_doctor.rules._singular import (
    DIVISIONS,
    DOMAINS,
    EXPONENTIALS,
    LOGARITHMS,
    UNSEEN,
    Singularity,
    derivative_singularity,
)
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.rules._producer import Producer
    from divergence_doctor.trace import Trace

#: Ops whose bad value in a branch not taken poisons the gradient through 0 * inf.
_TRAPS: Final = frozenset({*LOGARITHMS, *DIVISIONS, *DOMAINS, *EXPONENTIALS, "Pow"})


@final
class GradientSingularity(Rule):
    """The forward pass is finite, but the derivative of one op is infinite or NaN.

    The first bad value of the step is the derivative of an op that stands exactly where its slope
    has no finite value (sqrt, a norm or a standard deviation at 0, a fractional power at 0, acos at
    1), or it comes through a branch that `tf.where` did not take, whose own value is infinite.

    Why it diverges: sqrt'(0) = 1/0. Multiplied by an incoming gradient of 0 it is 0 * inf = NaN, so
    not even a zero loss weight protects. `tf.where(c, a, b)` sends a gradient of 0 into the branch
    not taken, and 0 times that branch's infinite derivative is NaN again. The loss looks normal;
    after one update every weight upstream is NaN.

    Evidence: `events/derivative` of the primary event with its forward op, `steps/loss_finite`, and
    the op's own `operands/value` at its singular point: 0 for roots and fractional powers (below
    1e-30, where the slope is of no use in float32), 1 within 1.2e-7 for acos, asin and atanh, a
    denominator whose square vanishes (below 5.4e-20); or a forward event of a branch not taken
    (`reaches` is gradient while the loss is finite).

    Fix: put the epsilon inside, `tf.sqrt(tf.maximum(x, 1e-12))`, not after the root; and guard the
    INPUT of the dangerous op as well as its result (the double where):
    `safe = tf.where(ok, x, 1.0); y = tf.where(ok, tf.math.log(safe), 0.0)`.

    Mistaken for: an exploding gradient or a learning rate that is too high. Clipping does not help:
    NaN clipped is NaN, and a smaller rate times NaN is NaN.

    Seen in: tensorflow/tensorflow#12071 (tf.norm of a zero vector), tensorflow/tensorflow#38349
    (tf.where), keras-team/keras-io#910 (a gradient penalty with a zero gradient), kornia/kornia#918
    (focal loss with gamma below 1), tensorflow/tensorflow#50400 (MS-SSIM).
    """

    id = "gradient-singularity"
    code = "DD403"
    needs = frozenset({"steps"})

    #: Derivative, op and singular point are all on record.
    SEEN: ClassVar[float] = 0.95
    #: A matrix decomposition: which eigenvalues coincide is not on record.
    MATRIX: ClassVar[float] = 0.8
    #: The bad value was handed on by further ops before it was put right: an overflow by hand
    #: (softplus, mish) fits as well.
    HANDED_ON: ClassVar[float] = 0.55
    #: An op with an unbounded slope, and its operands not on record.
    UNSEEN: ClassVar[float] = 0.7
    #: In half precision the 0 may have been an epsilon: the precision is a suspect.
    LOW_PRECISION: ClassVar[float] = 0.7

    def examine(self, trace: Trace) -> Finding | None:
        """Return the op whose derivative has no finite value there, or None."""
        producer = derivative_fault(trace)
        if producer is None:
            return None
        if producer.dead_branch:
            return self._dead_branch(trace, producer) if producer.op_type in _TRAPS else None
        point = derivative_singularity(producer)
        if point is None:
            return self._through_a_branch(trace, producer)
        return self._slope(trace, producer, point)

    def _slope(self, trace: Trace, producer: Producer, point: Singularity) -> Finding:
        trap = _forward_twin(trace, producer)
        untaken = trap is not None and producer.loss_finite
        tail = (
            "; its value there was discarded by a tf.where, but 0 times an infinite slope is NaN"
            if untaken
            else f": {point.because}"
        )
        value = "a finite loss" if producer.loss_finite else "the value itself"
        summary = (
            f"The derivative of {producer.op_type} at {point.at} {producer.place} is not finite, "
            f"behind {value}{tail}{producer.whom}."
        )
        confidence = self.MATRIX if point.at == "this matrix" else self.SEEN
        if point is UNSEEN:
            confidence = self.UNSEEN
        if any(operand.low_precision for operand in producer.all("input")):
            confidence = min(confidence, self.LOW_PRECISION)
        return self._finding(
            producer,
            summary,
            confidence,
            (measured(f"input of {producer.op_type} there", point.value, "/operands/value"),),
            (*_DOUBLE_WHERE, *_inside(producer.op_type))
            if untaken
            else (*_inside(producer.op_type), *_DOUBLE_WHERE),
        )

    def _dead_branch(self, trace: Trace, producer: Producer) -> Finding:
        operand = producer.input(LOGARITHMS.get(producer.op_type, (0, 0.0))[0])
        if producer.op_type in DIVISIONS:
            operand = producer.input(DIVISIONS[producer.op_type])
        handed_on = carried_on(trace, producer)
        summary = (
            f"{producer.op_type} {producer.place} gave "
            f"{producer.nan + producer.inf} non-finite values that the finite loss never used; its "
            f"derivative multiplies them by 0, which is NaN{producer.whom}."
        )
        given = operand.value if operand is not None else math.nan
        return self._finding(
            producer,
            summary,
            self.HANDED_ON if handed_on else self.SEEN,
            (measured(f"what {producer.op_type} was given there", given, "/operands/value"),),
            (*_DOUBLE_WHERE, *_inside(producer.op_type)),
        )

    def _through_a_branch(self, trace: Trace, producer: Producer) -> Finding | None:
        """Return the op of a branch not taken whose bad value this derivative multiplied by 0."""
        if not producer.loss_finite:
            return None
        if not any(operand.nonfinite for operand in producer.all("input")):
            return None
        rows = trace.table("events").select(step=producer.step, derivative=False, produced=True)
        earlier = rows.where(rows["op"] < producer.op)
        for row in earlier.rows():
            if row["op_type"] in _TRAPS:
                return self._dead_branch(trace, read(trace, row))
        return None

    def _finding(
        self,
        producer: Producer,
        summary: str,
        confidence: float,
        evidence: tuple[Evidence, ...],
        remedies: tuple[str, ...],
    ) -> Finding:
        return Finding(
            cause=self.id,
            summary=summary,
            confidence=confidence,
            stage="backward",
            site=producer.site,
            samples=producer.blamed,
            evidence=(
                *evidence,
                bad_output(producer),
                Evidence("the loss of this step is finite", producer.loss_finite, "/steps"),
            ),
            remedies=remedies,
            proofs=proofs(producer),
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return slopes at their singular points and branches not taken."""
        return (
            Example("a norm of 0: the derivative of sqrt at 0", _norm),
            Example("focal loss: the derivative of a power of 0.5 at 0", _focal),
            Example("the derivative of acos at 1", _acos),
            Example("the derivative of a log in a branch not taken", _dead_log),
            Example("an exp in a branch not taken", _dead_exp),
            Example("alpha * log(z) in a branch not taken: only alpha is hit", _dead_factor),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return values that went bad themselves, and gradients that overflowed."""
        return (
            Example("a healthy run", training_trace),
            Example("a log of 0 in the loss itself", _value),
            Example("the derivative of a matrix product that overflowed", _overflow),
            Example("the derivative of a square root at 0.25, of a huge gradient", _smooth),
        )


_DOUBLE_WHERE: Final = (
    (
        "Guard the input of the dangerous op, not only its result (the double where): "
        "`safe = tf.where(ok, x, 1.0); y = tf.where(ok, f(safe), 0.0)`."
    ),
)


def _inside(op_type: str) -> tuple[str, ...]:
    if op_type in {"Sqrt", "SqrtGrad", "Rsqrt"}:
        return (
            (
                "Put the epsilon inside the root: `tf.sqrt(tf.maximum(x, 1e-12))` or "
                "`tf.sqrt(x + 1e-12)`; after the root it is too late. For a norm: "
                "`tf.sqrt(tf.reduce_sum(x**2, axis=-1) + 1e-12)` in place of `tf.norm(x, axis=-1)`."
            ),
        )
    if op_type == "Pow":
        return ("Clip the base before the power: `tf.pow(tf.clip_by_value(x, 1e-7, 1.0), p)`.",)
    if op_type in {"Acos", "Asin", "Atanh"}:
        name = f"tf.math.{op_type.lower()}"
        return (f"Clip the argument: `{name}(tf.clip_by_value(x, -1 + 1e-6, 1 - 1e-6))`.",)
    if op_type in EXPONENTIALS:
        return (
            (
                "Bound the argument, `tf.exp(tf.minimum(x, 80.0))`, or use `tf.math.softplus`, "
                "`tf.nn.sigmoid`, `keras.activations.mish`, which have safe derivatives."
            ),
        )
    if op_type in LOGARITHMS:
        return ("Keep the argument inside: `tf.math.log(tf.maximum(x, 1e-7))`.",)
    return ("Keep the op's input away from the point where its slope is infinite.",)


def _forward_twin(trace: Trace, producer: Producer) -> dict[str, Any] | None:
    """Return the forward event of the same op, if its value was bad and went nowhere."""
    rows = trace.table("events").select(
        step=producer.step,
        op_type=producer.op_type,
        derivative=False,
        layer=producer.layer,
        source=producer.source,
    )
    earlier = rows.where(rows["op"] < producer.op)
    spilt = any(operand.nonfinite for operand in producer.all("output"))
    if len(earlier) and spilt:
        return earlier.row(0)
    return None


def _backward(op_type: str, **fields: Any) -> SyntheticEvent:
    return SyntheticEvent(op_type, phase="backward", derivative=True, reaches="gradient", **fields)


def _failed(*events: SyntheticEvent) -> Trace:
    return training_trace(losses=(0.9,), outcome="diverged", events=events)


def _norm() -> Trace:
    return _failed(
        _backward(
            "Sqrt",
            layer="embed",
            source="model.py:30",
            samples=(1,),
            inputs=([4.0, 0.0],),
            input_values=(0.0,),
            outputs=([2.0, 0.0],),
        )
    )


def _focal() -> Trace:
    return _failed(_backward("Pow", inputs=([0.0], 0.5), input_values=(0.0, 0.5), outputs=([0.0],)))


def _acos() -> Trace:
    return _failed(_backward("Acos", inputs=([1.0],), input_values=(1.0,), outputs=([0.0],)))


def _dead_log() -> Trace:
    discarded = SyntheticEvent(
        "Log", phase="forward", reaches="", primary=False, inputs=([0.0],), outputs=([-math.inf],)
    )
    slope = _backward("Log", inputs=([0.0],), input_values=(0.0,), outputs=([-math.inf],))
    return _failed(discarded, slope)


def _dead_exp() -> Trace:
    return _failed(
        SyntheticEvent(
            "Exp",
            phase="forward",
            reaches="gradient",
            inputs=([1000.0],),
            input_values=(1000.0,),
            outputs=([math.inf],),
        )
    )


def _dead_factor() -> Trace:
    discarded = SyntheticEvent(
        "Log", phase="forward", reaches="", primary=False, inputs=([-2.0],), outputs=([math.nan],)
    )
    product = _backward("Mul", inputs=(0.1, [math.nan]), outputs=([math.nan],))
    return _failed(discarded, product)


def _value() -> Trace:
    event = SyntheticEvent("Log", inputs=([0.0],), outputs=([-math.inf],))
    return training_trace(losses=(math.inf,), events=(event,))


def _overflow() -> Trace:
    return _failed(_backward("MatMul", inputs=([1e3], [1e30]), outputs=([1e33],)))


def _smooth() -> Trace:
    return _failed(_backward("Sqrt", inputs=([0.25],), input_values=(0.25,), outputs=([0.5],)))
