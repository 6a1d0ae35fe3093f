"""Was the logarithm of zero, or of a negative number, taken?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final, final

from divergence_doctor.rules._producer import (
    bad_output,
    figure,
    forward_fault,
    left_out,
    measured,
    proofs,
)
from divergence_doctor.rules._rule import Example, Finding, Proof, Rule
from divergence_doctor.rules._singular import LOGARITHMS
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.rules._producer import Operand, Producer
    from divergence_doctor.trace import Trace

_PROBABILITIES: Final = frozenset({"Softmax", "Sigmoid"})
#: Ops that give minus infinity for a probability of 0.
_LOGS: Final = frozenset({*LOGARITHMS, "LogSoftmax"})
_MASKED: Final = (
    "Mask with a large finite number, `tf.where(mask, logits, -1e9)` (-1e4 in float16), so that no "
    "probability is 0 and no logarithm infinite."
)
_GUARDED: Final = (
    "Or select before multiplying, `tf.where(p > 0, p * tf.math.log(tf.where(p > 0, p, 1.0)), 0.0)`"
    "; or use `tf.math.xlogy(p, p)`."
)


@final
class LogOfZero(Rule):
    """The logarithm of zero or of a negative number was taken.

    The first bad value of the step comes out of Log, Log1p, Xlogy or Xlog1py, and the number that
    went in at that element lies at the end of the logarithm's domain or beyond it.

    Why it diverges: log(0) is minus infinity, log of a negative number is NaN. A probability
    reaches exactly 0 (or 1, for log(1 - p)) as soon as the model is sure: float32 has no number
    between 1 - 6e-8 and 1, so `1 - p + 1e-10` is 0 when p is 1. In the next product 0 * -inf is
    NaN, and the gradient 1/x carries it into every weight.

    Evidence: `events` (primary, op type), `operands/value` at the first bad element, or
    `operands/min` where no element fits: a value of at most 0 (at most -1 for log1p). That is the
    definition of the logarithm and no tuned threshold.

    Fix: let the loss see logits, `keras.losses.CategoricalCrossentropy(from_logits=True)` with a
    linear last layer; or keep the argument inside,
    `tf.math.log(tf.clip_by_value(p, 1e-7, 1 - 1e-7))`.

    Mistaken for: a learning rate that is too high. The run often fails just when accuracy reaches
    1, and lowering the rate only delays that. Where the argument is negative because the last layer
    is linear or tanh, the loss is made for another output (`loss-activation-mismatch`).

    Seen in: keras-team/keras#377 (a clip of 1e-9 that float32 cannot represent),
    pkmital/tensorflow_tutorials#23 (log of a tanh output), keras-team/keras#590 (Poisson loss on a
    negative rate), qqwweee/keras-yolo3#171 (log of a box that is 0 pixels wide).
    """

    id = "log-of-zero"
    code = "DD201"
    needs = frozenset({"steps"})

    #: The op that went bad, and the number that no logarithm takes, are both on record.
    SEEN: ClassVar[float] = 0.95
    #: In half precision the 0 may be an epsilon that was rounded away: the precision is a suspect.
    LOW_PRECISION: ClassVar[float] = 0.8
    #: 0 * -inf, and the infinity came out of a logarithm.
    PRODUCT: ClassVar[float] = 0.85

    def examine(self, trace: Trace) -> Finding | None:
        """Return the logarithm that was fed a number outside its domain, or None."""
        producer = forward_fault(trace)
        if producer is not None and producer.op_type == "Mul":
            return self._times_nothing(producer)
        if producer is None or producer.op_type not in LOGARITHMS:
            return None
        position, edge = LOGARITHMS[producer.op_type]
        operand = producer.input(position)
        if operand is None or not operand.smallest() <= edge:
            return None
        return Finding(
            cause=self.id,
            summary=_sentence(producer, operand, edge),
            confidence=self.LOW_PRECISION if operand.low_precision else self.SEEN,
            stage=producer.stage,
            site=producer.site,
            samples=producer.blamed,
            evidence=(
                measured(
                    f"what {producer.op_type} was given at the first bad element",
                    operand.smallest(),
                    "/operands/value",
                ),
                measured("smallest element it was given", operand.low, "/operands/min"),
                measured("zeros among what it was given", operand.zero, "/operands/zero"),
                measured(
                    "negatives among what it was given", operand.negative, "/operands/negative"
                ),
                bad_output(producer),
            ),
            remedies=_remedies(operand, edge),
            proofs=proofs(producer),
        )

    def _times_nothing(self, producer: Producer) -> Finding | None:
        """Return the logarithm of 0 that 0 was multiplied with, as in p * log(p), or None."""
        factors = producer.all("input")
        log = next((f for f in factors if f.nonfinite and f.origin_name in _LOGS), None)
        other = next((f for f in factors if f is not log), None)
        if log is None or other is None or other.nonfinite or other.nearest(0.0) != 0:
            return None
        where = f"in layer {log.origin_layer!r}" if log.origin_layer else "before"
        safe = {"op_type": log.origin_name, "layer": log.origin_layer}
        return Finding(
            cause=self.id,
            summary=f"{producer.op_type} {producer.place} multiplied 0 by minus infinity, which "
            f"{log.origin_name} {where} gave for a probability of 0{producer.whom}.",
            confidence=self.PRODUCT,
            stage=producer.stage,
            site=producer.site,
            samples=producer.blamed,
            evidence=(
                measured("infinities among the logarithms", log.nonfinite, "/operands/neginf"),
                measured("zeros they are multiplied with", other.zero, "/operands/zero"),
                bad_output(producer),
            ),
            remedies=(_MASKED, _GUARDED),
            proofs=(Proof("safe-op", safe), *left_out(producer)),
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return a confident probability, a negative rate and a log1p at its edge."""
        return (
            Example("a softmax output of exactly 0 into a hand-written cross-entropy", _sure),
            Example("the log of a tanh output below 0", _negative),
            Example("log1p of -1 inside a layer", _edge),
            Example("an entropy, p * log(p), of a masked action", _entropy),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return a healthy run, a masked logarithm, and logs that are not to blame."""
        return (
            Example("a healthy run", training_trace),
            Example("0 times an infinity that is no logarithm", _no_logarithm),
            Example("a -inf that reached neither loss nor state", _masked),
            Example("a NaN that the logarithm was handed and carried on", _carried),
            Example("the derivative of a logarithm in a branch not taken", _derivative),
        )


def _sentence(producer: Producer, operand: Operand, edge: float) -> str:
    value = operand.smallest()
    came = operand.came_from
    result = "minus infinity" if value == edge else "NaN"
    return (
        f"{producer.op_type} {producer.place} was given {figure(value)}"
        f"{f', which {came},' if came else ''} and gave {result}{producer.whom}."
    )


def _remedies(operand: Operand, edge: float) -> tuple[str, ...]:
    found = []
    if operand.origin_name in _PROBABILITIES:
        found.append(
            f"Drop the {operand.origin_name.lower()} from the last layer and give the loss logits: "
            + (
                "`keras.losses.CategoricalCrossentropy(from_logits=True)`."
                if operand.origin_name == "Softmax"
                else "`keras.losses.BinaryCrossentropy(from_logits=True)`."
            )
        )
    if operand.origin == "batch":
        found.append(
            f"Repair or drop the rows of {operand.origin_name!r} that the logarithm cannot take, "
            "where the data is loaded."
        )
    if edge == 0:
        found.append(
            "Keep the argument inside: `tf.math.log(tf.clip_by_value(p, 1e-7, 1 - 1e-7))` for a "
            "probability, `tf.math.log(tf.maximum(x, 1e-7))` otherwise. An epsilon below 6e-8 next "
            "to 1 is lost in float32."
        )
    else:
        found.append("Keep the argument inside: `tf.math.log1p(tf.maximum(x, -1 + 1e-6))`.")
    if operand.smallest() < edge:
        found.append(
            "If the argument should be positive by its meaning (a rate, a variance, a "
            'probability), make the layer say so: `activation="softplus"` or `"sigmoid"`.'
        )
    elif operand.origin_name not in _PROBABILITIES:
        found.append(
            "Use a built-in on logits: `keras.losses.CategoricalCrossentropy(from_logits=True)`, "
            "`tf.nn.log_softmax`, or `tf.reduce_logsumexp` in place of the log of a sum of "
            "exponentials."
        )
    return tuple(found)


def _sure() -> Trace:
    event = SyntheticEvent(
        "Log",
        source="losses.py:41",
        samples=(3,),
        inputs=([0.0, 0.2, 0.8],),
        input_values=(0.0,),
        outputs=([-math.inf, -1.6, -0.2],),
    )
    return training_trace(losses=(math.inf,), events=(event,))


def _entropy() -> Trace:
    return training_trace(losses=(math.nan,), events=(_product("LogSoftmax"),))


def _no_logarithm() -> Trace:
    return training_trace(losses=(math.nan,), events=(_product("Mul"),))


def _product(maker: str) -> SyntheticEvent:
    return SyntheticEvent(
        "Mul",
        inputs=([0.0, 0.4, 0.6], [-math.inf, -0.9, -0.5]),
        input_values=(0.0, -math.inf),
        input_makers=("Softmax", maker),
        outputs=([math.nan, -0.4, -0.3],),
    )


def _negative() -> Trace:
    event = SyntheticEvent(
        "Log",
        inputs=([-0.4, 0.9],),
        input_values=(-0.4,),
        outputs=([math.nan, -0.1],),
    )
    return training_trace(losses=(math.nan,), events=(event,), activation="tanh")


def _edge() -> Trace:
    event = SyntheticEvent(
        "Log1p", phase="forward", layer="dense", inputs=([-1.0, 0.0],), outputs=([-math.inf, 0.0],)
    )
    return training_trace(losses=(math.nan,), events=(event,))


def _masked() -> Trace:
    event = SyntheticEvent(
        "Log", primary=False, reaches="", inputs=([0.0],), outputs=([-math.inf],)
    )
    return training_trace(outcome="healthy", events=(event,))


def _carried() -> Trace:
    event = SyntheticEvent("Log", produced=False, origin="batch", origin_name="x", inputs=([0.5],))
    return training_trace(losses=(math.nan,), events=(event,))


def _derivative() -> Trace:
    event = SyntheticEvent(
        "Log", phase="backward", derivative=True, reaches="gradient", inputs=([0.0],)
    )
    return training_trace(losses=(0.3,), outcome="diverged", events=(event,))
