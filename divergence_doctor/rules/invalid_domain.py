"""Was a function asked for a value it does not have: sqrt(-1), acos(1.1), a singular inverse?"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.rules._producer import (
    bad_output,
    figure,
    forward_fault,
    measured,
    proofs,
)
from divergence_doctor.rules._rule import Evidence, Example, Finding, Proof, Rule, Site
from divergence_doctor.rules._singular import DOMAINS, LINEAR_ALGEBRA, met
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.rules._producer import Producer
    from divergence_doctor.trace import Trace

#: Functions with poles at 0, -1, -2, ... or without real values for some arguments.
_POLES: Final = frozenset(
    {"Lgamma", "Digamma", "Polygamma", "Zeta", "Igamma", "Igammac", "Betainc"}
)
_MATRIX_MESSAGE: Final = re.compile(
    r"not invertible|not successful|not positive definite|singular|eigen\w* did not converge",
    re.IGNORECASE,
)


@final
class InvalidDomain(Rule):
    """A function was asked for a value it does not have.

    The first bad value of the step comes out of a square root of a negative number, acos, asin or
    atanh outside [-1, 1], a fractional power of a negative number, a gamma function at a pole, or a
    Cholesky factor, inverse or solution of a matrix that has none. The step may also raise there.

    Why it diverges: real arithmetic answers NaN, and NaN survives everything that follows. The
    argument is often right on paper and a rounding error too far: a cosine of 1.0000001, a variance
    of -1e-9 as E[x^2] - E[x]^2, a covariance of fewer samples than dimensions.

    Evidence: `events` (primary, op type) and `operands/value`, `operands/min` or `operands/max`
    outside the function's domain of definition; `steps/raised` and `steps/raised_op` for a matrix.
    There is no tuned threshold.

    Fix: move the argument inside before the call: `tf.sqrt(tf.maximum(x, 1e-12))`,
    `tf.acos(tf.clip_by_value(x, -1 + 1e-6, 1 - 1e-6))`, `tf.math.reduce_variance(x)` in place of a
    difference of means, `tf.linalg.cholesky(a + 1e-6 * tf.eye(n))`.

    Mistaken for: bad data. TensorFlow's Cholesky only prints a warning and returns NaN, which then
    surfaces far from it. A value that is fine while only the slope is not, such as sqrt(0), is
    `gradient-singularity`.

    Seen in: tensorflow/tensorflow#57353 (a negative number to a fractional power in MS-SSIM),
    ronghuaiyang/arcface-pytorch#32 (sqrt(1 - cos^2) with a cosine above 1), ray-project/ray#14878
    (atanh of 1), tnakae/DAGMM#21 (Cholesky of a singular covariance).
    """

    id = "invalid-domain"
    code = "DD203"
    needs = frozenset({"steps"})

    #: The function and an argument outside its domain are both on record.
    SEEN: ClassVar[float] = 0.95
    #: A decomposition answered NaN to finite numbers, or raised: which number is at fault is open.
    MATRIX: ClassVar[float] = 0.9
    #: So little beyond an end may be rounding: numbers near 1 that cancel to four digits.
    ROUNDING: ClassVar[float] = 1e-3
    #: A pole of a special function: its whole argument is on record only as statistics.
    POLE: ClassVar[float] = 0.85

    def examine(self, trace: Trace) -> Finding | None:
        """Return the function that has no value there, or None."""
        raised = self._raised(trace)
        if raised is not None:
            return raised
        producer = forward_fault(trace)
        if producer is None:
            return None
        if producer.op_type in LINEAR_ALGEBRA:
            return self._finding(producer, _matrix_sentence(producer), self.MATRIX, (), _MATRIX_FIX)
        if producer.op_type == "Pow":
            return self._power(producer)
        if producer.op_type in _POLES:
            return self._pole(producer)
        return self._outside(producer)

    def _outside(self, producer: Producer) -> Finding | None:
        domain = DOMAINS.get(producer.op_type)
        operand = producer.input(domain.position) if domain is not None else None
        if domain is None or operand is None:
            return None
        value = met(operand, domain)
        if value is None:
            return None
        came = operand.came_from
        edge = " (the end itself gives infinity)" if value in {domain.low, domain.high} else ""
        sentence = (
            f"{producer.op_type} {producer.place} was given {value:.8g}"
            f"{f', which {came},' if came else ''} and is defined on {domain} only{edge}"
            f"{producer.whom}."
        )
        evidence = (
            measured(f"what {producer.op_type} was given", value, "/operands/value"),
            measured("smallest element it was given", operand.low, "/operands/min"),
            measured("largest element it was given", operand.high, "/operands/max"),
        )
        return self._finding(producer, sentence, self.SEEN, evidence, _fix(producer.op_type))

    def _power(self, producer: Producer) -> Finding | None:
        base, exponent = producer.input(0), producer.input(1)
        if base is None or exponent is None or not base.smallest() < 0:
            return None
        if not producer.nan or float(exponent.smallest()).is_integer():
            return None
        sentence = (
            f"Pow {producer.place} raised {figure(base.smallest())} to the power "
            f"{figure(exponent.smallest())}, which has no real value{producer.whom}."
        )
        evidence = (
            measured("base at the first bad element", base.smallest(), "/operands/value"),
            measured("exponent", exponent.smallest(), "/operands/value"),
            measured("negative bases", base.negative, "/operands/negative"),
        )
        return self._finding(producer, sentence, self.SEEN, evidence, _fix("Pow"))

    def _pole(self, producer: Producer) -> Finding | None:
        operands = [operand for operand in producer.all("input") if operand.smallest() <= 0]
        if not operands:
            return None
        value = operands[0].smallest()
        sentence = (
            f"{producer.op_type} {producer.place} was given {figure(value)}, where it has a pole "
            f"or no value{producer.whom}."
        )
        evidence = (measured(f"what {producer.op_type} was given", value, "/operands/value"),)
        return self._finding(producer, sentence, self.POLE, evidence, _fix(producer.op_type))

    def _finding(
        self,
        producer: Producer,
        sentence: str,
        confidence: float,
        evidence: tuple[Evidence, ...],
        remedies: tuple[str, ...],
    ) -> Finding:
        return Finding(
            cause=self.id,
            summary=sentence,
            confidence=confidence,
            stage=producer.stage,
            site=producer.site,
            samples=producer.blamed,
            evidence=(*evidence, bad_output(producer)),
            remedies=remedies,
            proofs=(*proofs(producer), *self._by_rounding(producer)),
        )

    def _by_rounding(self, producer: Producer) -> tuple[Proof, ...]:
        """Return the trial in float64, where rounding may be what brought the argument there.

        It says whether the formula is at fault, or only the digits that it is computed with.
        """
        operand = producer.input(0)
        if operand is None or operand.dtype != "float32":
            return ()
        domain = DOMAINS.get(producer.op_type)
        if domain is None:
            near = producer.op_type in LINEAR_ALGEBRA
        else:
            value = met(operand, domain)
            beyond = min(abs((value or 0.0) - end) for end in (domain.low, domain.high))
            # A difference of large numbers has lost more digits than its size tells.
            near = beyond <= self.ROUNDING or operand.origin_name == "Sub"
        return (Proof("float64"),) if near else ()

    def _raised(self, trace: Trace) -> Finding | None:
        step = _raised_step(trace)
        if step is None:
            return None
        op, layer = step["raised_op"], step["raised_layer"]
        where = f" in layer {layer!r}" if layer else ""
        at = f" at {step['raised_source']}" if step["raised_source"] else ""
        said = _essence(str(step["raised"]))
        return Finding(
            cause=self.id,
            summary=f"{op or 'The step'}{where}{at} raised: {said}.",
            confidence=self.MATRIX,
            stage="loss" if step["raised_phase"] == "loss" else "forward",
            site=Site(
                step=step["step"],
                layer=layer or None,
                op=op or None,
                source=step["raised_source"] or None,
            ),
            evidence=(Evidence("what the step raised", said, "/steps/raised"),),
            remedies=_MATRIX_FIX,
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return one example per kind of function."""
        return (
            Example("the square root of a variance rounded below 0", _root),
            Example("acos of a cosine of 1.0000001", _acos),
            Example("atanh at its edge", _atanh),
            Example("a negative number to the power 0.3", _fraction),
            Example("Cholesky of a singular covariance", _cholesky),
            Example("a matrix inverse that raised", _inverse),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return functions inside their domain, and a derivative at its edge."""
        return (
            Example("a healthy run", training_trace),
            Example("the derivative of sqrt at 0", _slope),
            Example("a large number to the power 2 that overflows", _square),
            Example("a step that raised because of a label", _label),
        )


_MATRIX_FIX: Final = (
    (
        "Add a jitter to the diagonal: `tf.linalg.cholesky(a + 1e-6 * tf.eye(n))`, larger until it "
        "holds, and do the decomposition in float64."
    ),
    (
        "A covariance of fewer samples than dimensions, or with identical rows, is singular: use a "
        "larger batch, fewer dimensions, or `tf.linalg.pinv(a)` in place of an inverse."
    ),
)


def _matrix_sentence(producer: Producer) -> str:
    operand = producer.input(0)
    size = f" (entries up to {figure(operand.absmax)})" if operand is not None else ""
    return (
        f"{producer.op_type} {producer.place} got a finite matrix{size} and found no answer: it is "
        f"singular, or not positive definite{producer.whom}."
    )


def _fix(op_type: str) -> tuple[str, ...]:
    if op_type in {"Sqrt", "Rsqrt"}:
        return (
            f"Keep the argument positive: `tf.math.{op_type.lower()}(tf.maximum(x, 1e-12))`.",
            (
                "If it is a variance, take `tf.math.reduce_variance(x)`, not `E[x**2] - E[x]**2`, "
                "which rounding can make negative."
            ),
        )
    if op_type == "Pow":
        return ("Raise a positive number: `tf.pow(tf.maximum(x, 1e-6), p)`.",)
    if op_type in _POLES:
        return (f"Keep the argument positive: `tf.math.{op_type.lower()}(tf.maximum(x, 1e-6))`.",)
    if op_type == "Acosh":
        return ("Keep the argument inside: `tf.acosh(tf.maximum(x, 1 + 1e-6))`.",)
    if op_type == "Ndtri":
        return ("Keep the argument inside: `tf.math.ndtri(tf.clip_by_value(x, 1e-6, 1 - 1e-6))`.",)
    return (
        (
            f"Keep the argument inside: "
            f"`tf.math.{op_type.lower()}(tf.clip_by_value(x, -1 + 1e-6, 1 - 1e-6))`."
        ),
    )


def _essence(message: str) -> str:
    """Return the sentence of an exception that says what was wrong, without its wrapping."""
    found = _MATRIX_MESSAGE.search(message)
    if found is None:
        return message.strip().partition("\n")[0][:200].rstrip(".")
    start = max(message.rfind(end, 0, found.start()) + len(end) for end in ("}} ", ". ", "\n"))
    return message[start:].partition(".")[0].strip()[:200]


def _raised_step(trace: Trace) -> dict[str, Any] | None:
    steps = trace.table("steps")
    ended = [row for row in steps.rows() if row["raised"]]
    if not ended:
        return None
    step = ended[-1]
    known = step["raised_op"] in LINEAR_ALGEBRA
    return step if known or _MATRIX_MESSAGE.search(step["raised"]) else None


def _root() -> Trace:
    event = SyntheticEvent(
        "Sqrt",
        phase="forward",
        layer="std_pool",
        source="layers.py:12",
        inputs=([0.5, -1e-9],),
        input_values=(-1e-9,),
        outputs=([0.7, math.nan],),
    )
    return training_trace(losses=(math.nan,), events=(event,))


def _acos() -> Trace:
    event = SyntheticEvent(
        "Acos", samples=(5,), inputs=([0.2, 1.0000001192092896],), outputs=([1.3, math.nan],)
    )
    return training_trace(losses=(math.nan,), events=(event,))


def _atanh() -> Trace:
    event = SyntheticEvent(
        "Atanh", phase="forward", inputs=([1.0],), input_values=(1.0,), outputs=([math.inf],)
    )
    return training_trace(losses=(math.inf,), events=(event,))


def _fraction() -> Trace:
    event = SyntheticEvent("Pow", inputs=([-0.2, 0.4], 0.3), input_values=(-0.2, 0.3))
    return training_trace(losses=(math.nan,), events=(event,))


def _cholesky() -> Trace:
    event = SyntheticEvent("Cholesky", phase="forward", inputs=([[0.0, 0.0], [0.0, -1e-6]],))
    return training_trace(losses=(math.nan,), events=(event,))


def _inverse() -> Trace:
    return training_trace(
        losses=(math.nan,),
        raised="Input is not invertible.",
        raised_type="InvalidArgumentError",
        raised_op="MatrixInverse",
        raised_layer="whitening",
    )


def _slope() -> Trace:
    event = SyntheticEvent(
        "Sqrt", phase="backward", derivative=True, reaches="gradient", inputs=([0.0],)
    )
    return training_trace(losses=(0.3,), outcome="diverged", events=(event,))


def _square() -> Trace:
    event = SyntheticEvent(
        "Pow", inputs=([1e30], 2.0), input_values=(1e30, 2.0), outputs=([math.inf],)
    )
    return training_trace(losses=(math.inf,), events=(event,))


def _label() -> Trace:
    return training_trace(
        losses=(math.nan,),
        raised="Received a label value of 5 which is outside the valid range of [0, 5).",
        raised_type="InvalidArgumentError",
        raised_op="SparseSoftmaxCrossEntropyWithLogits",
    )
