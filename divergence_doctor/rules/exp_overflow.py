"""Did an exponential leave the range of its dtype?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final, final

from divergence_doctor.rules._producer import (
    bad_output,
    carried_on,
    figure,
    left_out,
    measured,
    producer_of,
    proofs,
)
from divergence_doctor.rules._rule import Example, Finding, Rule
from divergence_doctor.rules._runaway import ran_away
from divergence_doctor.rules._singular import EXPONENTIALS, exponent_limit
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.rules._producer import Operand, Producer
    from divergence_doctor.trace import Trace


@final
class ExpOverflow(Rule):
    """An exponential left the range of its dtype.

    The first bad value of the step comes out of Exp, Expm1, Sinh, Cosh or a power with a large
    exponent, and what went in was finite and beyond the dtype's limit. The forward value may even
    be put right again, as in tanh(log(1 + exp(x))): then the loss is finite and the gradient NaN.

    Why it diverges: exp(89) is infinity in float32. A softmax by hand then divides inf by inf, a
    softplus by hand has the derivative 0 * inf, a variance exp(log_var) makes the whole loss inf.

    Evidence: `events` (primary, op type) and `operands/value` or `operands/max` of the input above
    ln(max): 88.72 for float32 and bfloat16, 11.09 for float16, 709.78 for float64 (ln 2 more for
    sinh and cosh). Where the replayed steps themselves drove the input there (see
    `high-learning-rate`), or the limit is only that of half precision, the confidence is below 0.5.

    Fix: the built-in that does it in safety: `tf.nn.softmax`, `tf.math.softplus`,
    `tf.reduce_logsumexp`, `keras.activations.mish`; for a log-variance head
    `tf.exp(tf.clip_by_value(log_var, -30.0, 20.0))`.

    Mistaken for: exploding activations. Inputs of some hundreds are harmless to every other op;
    here 89 is enough. Unscaled inputs, such as pixels from 0 to 255, are the usual reason that a
    head reaches it: if scaling them mends the step, they are the cause.

    Seen in: AppliedDataSciencePartners/WorldModels#9 (a VAE's exp(log_var)),
    hunglc007/tensorflow-yolov4-tflite#1 (mish by hand), vanderschaarlab/synthcity#331.
    """

    id = "exp-overflow"
    code = "DD204"
    needs = frozenset({"steps"})

    #: The exponential and an argument beyond its limit are both on record.
    SEEN: ClassVar[float] = 0.92
    #: The value was put right again further on (tanh(inf) = 1) and only the gradient shows it.
    SWALLOWED: ClassVar[float] = 0.85
    #: Too long steps drove the argument there: the overflow is where it ended, not why.
    DRIVEN: ClassVar[float] = 0.45
    #: float32 would have held it: the precision is the first suspect.
    LOW_PRECISION: ClassVar[float] = 0.45
    #: From this exponent on a power grows like an exponential: 7,131**10 leaves float32.
    LARGE_EXPONENT: ClassVar[float] = 10.0

    def examine(self, trace: Trace) -> Finding | None:
        """Return the exponential that overflowed, or None."""
        producer = producer_of(trace)
        if producer is None or producer.derivative or producer.phase == "backward":
            return None
        swallowed = producer.dead_branch
        if swallowed and not carried_on(trace, producer):
            return None
        met = self._beyond(producer)
        if met is None:
            return None
        operand, value, limit = met
        confidence = self._sure(trace, operand, value, swallowed=swallowed)
        return Finding(
            cause=self.id,
            summary=_sentence(producer, operand, value, limit),
            confidence=confidence,
            stage=producer.stage,
            site=producer.site,
            samples=producer.blamed,
            evidence=(
                measured(f"what {producer.op_type} was given", value, "/operands/value"),
                measured("largest element it was given", operand.high, "/operands/max"),
                measured(f"limit in {operand.dtype}", limit, f"ln of the largest {operand.dtype}"),
                bad_output(producer),
            ),
            remedies=_REMEDIES,
            # The trial bounds the argument of an exponential; of a power it would move the base.
            proofs=left_out(producer) if producer.op_type == "Pow" else proofs(producer),
        )

    def _beyond(self, producer: Producer) -> tuple[Operand, float, float] | None:
        """Return the operand, its value and the limit it passed."""
        if producer.op_type == "Pow":
            return self._power(producer)
        operand = producer.input(0)
        if operand is None or producer.op_type not in EXPONENTIALS:
            return None
        two_sided = producer.op_type in {"Sinh", "Cosh"}
        value = abs(operand.largest()) if two_sided else operand.largest()
        if two_sided and not math.isfinite(operand.value):
            value = operand.absmax
        limit = exponent_limit(producer.op_type, operand.dtype)
        return (operand, value, limit) if value >= limit else None

    def _power(self, producer: Producer) -> tuple[Operand, float, float] | None:
        base, exponent = producer.input(0), producer.input(1)
        if base is None or exponent is None or not exponent.largest() >= self.LARGE_EXPONENT:
            return None
        size = abs(base.largest())
        if not size > 1:
            return None
        limit = exponent_limit("Exp", base.dtype) / math.log(size)
        power = exponent.largest()
        return (exponent, power, limit) if power >= limit else None

    def _sure(self, trace: Trace, operand: Operand, value: float, *, swallowed: bool) -> float:
        if ran_away(trace):
            return self.DRIVEN
        if operand.dtype == "float16" and value < exponent_limit("Exp", "float32"):
            return self.LOW_PRECISION
        return self.SWALLOWED if swallowed else self.SEEN

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return exponentials beyond float32, one of them put right again."""
        return (
            Example("exp of a log-variance of 143", _log_variance),
            Example("1.5 to the power 400", _power),
            Example("mish by hand: tanh(log(1 + exp(100))) is finite, its gradient is not", _mish),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return exponentials inside their range, or not to blame."""
        return (
            Example("a healthy run", training_trace),
            Example("exp in a branch that tf.where did not take", _where),
            Example("an exp that was handed an infinity", _carried),
            Example("a square that overflows", _square),
        )


_REMEDIES: Final = (
    (
        "Use the built-in that cannot overflow: `tf.nn.softmax`, `tf.math.softplus`, "
        "`tf.reduce_logsumexp`, `keras.activations.mish`, `keras.activations.sigmoid`."
    ),
    (
        "Bound the argument of a variance or rate head: "
        "`tf.exp(tf.clip_by_value(log_var, -30.0, 20.0))`, or use `tf.math.softplus`."
    ),
    (
        "If the argument comes from raw inputs, scale them first: "
        "`norm = keras.layers.Normalization(); norm.adapt(x)`."
    ),
)


def _sentence(producer: Producer, operand: Operand, value: float, limit: float) -> str:
    came = operand.came_from
    base = producer.input(0)
    power = producer.op_type == "Pow" and base is not None
    what = f"{figure(base.largest())} to the power " if power and base is not None else ""
    return (
        f"{producer.op_type} {producer.place} was given {what}{figure(value)}"
        f"{f', which {came},' if came else ''} and overflows {operand.dtype} above {limit:.2f}"
        f"{producer.whom}."
    )


def _log_variance() -> Trace:
    event = SyntheticEvent(
        "Exp",
        phase="forward",
        layer="sampling",
        inputs=([0.2, 143.0],),
        input_values=(143.0,),
        outputs=([1.2, math.inf],),
    )
    return training_trace(losses=(math.inf,), events=(event,))


def _power() -> Trace:
    event = SyntheticEvent(
        "Pow", inputs=([1.5], 400.0), input_values=(1.5, 400.0), outputs=([math.inf],)
    )
    return training_trace(losses=(math.inf,), events=(event,))


def _mish() -> Trace:
    events = (
        SyntheticEvent(
            "Exp",
            phase="forward",
            layer="mish",
            reaches="gradient",
            inputs=([100.0],),
            input_values=(100.0,),
            outputs=([math.inf],),
        ),
        SyntheticEvent(
            "AddV2",
            phase="forward",
            layer="mish",
            produced=False,
            primary=False,
            reaches="",
            origin_name="Exp",
            outputs=([math.inf],),
        ),
    )
    return training_trace(losses=(1319.0,), outcome="diverged", events=events)


def _where() -> Trace:
    event = SyntheticEvent(
        "Exp",
        phase="forward",
        reaches="gradient",
        inputs=([1000.0],),
        input_values=(1000.0,),
        outputs=([math.inf],),
    )
    return training_trace(losses=(0.4,), outcome="diverged", events=(event,))


def _carried() -> Trace:
    event = SyntheticEvent("Exp", produced=False, origin="variable", inputs=([1.0],))
    return training_trace(losses=(math.nan,), events=(event,))


def _square() -> Trace:
    event = SyntheticEvent("Square", inputs=([1e30],), input_values=(1e30,), outputs=([math.inf],))
    return training_trace(losses=(math.inf,), events=(event,))
