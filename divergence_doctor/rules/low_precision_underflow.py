"""Was a number that the step divides by, or takes the logarithm of, lost in half precision?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.rules._precision import beside, spelled
from divergence_doctor.rules._producer import measured
from divergence_doctor.rules._rule import Example, Finding, Proof, Rule
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.rules._precision import Beside, Pair
    from divergence_doctor.trace import Trace

#: What an op that failed of a 0, or of a negative number, looks like by itself.
_EFFECTS: Final = frozenset(
    {
        *("division-by-zero", "log-of-zero", "invalid-domain", "gradient-singularity"),
        "degenerate-normalization",
    }
)


@final
class LowPrecisionUnderflow(Rule):
    """A number that the step needs is 0, or 1, in float16 or bfloat16 and not so in float32.

    The first bad value of the step comes out of a division, a logarithm, a root, or the derivative
    of one, whose argument is 0 (or outside the domain) in half precision. The same step was
    computed once more in float32, from the same weights: there the argument is inside the domain,
    and nothing of the step goes bad.

    Why it diverges: float16's smallest number is 6e-8, so an epsilon of 1e-8 is 0 and guards
    nothing; a squared gradient below that is 0, and Adam divides by its root plus epsilon. Between
    1 and its neighbour lie 5e-4 in float16 and 4e-3 in bfloat16: a probability of 0.999 is 1 in
    bfloat16, `1 - p` is 0, and `clip(p, 1e-7, 1 - 1e-7)` does not clip.

    Evidence: `float32` (value beside float32 at the failing element, of the failing op and of the
    links of its chain), `step_finite`. No threshold decides: the op cannot take the one number and
    can take the other. A constant of the code that became 0 or 1 is named. Where float32 gives
    less than 1e-20 as well, float32 is only a little further from the same end, and the confidence
    is below 0.5.

    Fix: an epsilon that the dtype knows, `keras.optimizers.Adam(epsilon=1e-4)` in pure float16 or
    1e-7 with the weights in float32 (`keras.config.set_dtype_policy("mixed_float16")`); the layer
    that divides in float32, `MyNorm(dtype="float32")`; the last activation in float32,
    `keras.layers.Activation("softmax", dtype="float32")`.

    Mistaken for: a division by zero or a logarithm of zero, which it is for the op alone: with a
    mask that is empty, or a probability of exactly 0, float32 fails as well and those rules have
    it. Also for a learning rate that is too high, for it often comes when the model becomes sure.

    Seen in: tensorflow/tensorflow#7226 and afiaka87/glide-finetune#5 (Adam's epsilon),
    google/gemma_pytorch#24 (a norm with 1e-8), optax google-deepmind/optax#1754.
    """

    id = "low-precision-underflow"
    code = "DD502"
    needs = frozenset({"steps"})

    #: The op, its two arguments and the constant that was lost are all on record.
    CONSTANT: ClassVar[float] = 0.92
    #: No constant was lost: the number itself is below the dtype, or was rounded away.
    ROUNDED: ClassVar[float] = 0.85
    #: float32 is nearly at the same end: another batch fails there too.
    NEARLY: ClassVar[float] = 0.45
    #: The square root of float32's smallest normal number: what is smaller has a square of 0.
    SMALL: ClassVar[float] = 1e-19

    def examine(self, trace: Trace) -> Finding | None:
        """Return the number that was lost in half precision, or None."""
        found = beside(trace)
        lost = found.lost() if found is not None and found.finite else None
        if found is None or lost is None:
            return None
        constant = found.rounded_constant()
        nearly = 0 < abs(lost.wide) < self.SMALL
        confidence = self.CONSTANT if constant is not None else self.ROUNDED
        return Finding(
            cause=self.id,
            summary=_sentence(found, lost, constant),
            confidence=self.NEARLY if nearly else confidence,
            stage=found.stage,
            site=found.producer.site,
            samples=found.producer.blamed,
            evidence=(
                measured(f"what it was given in {found.dtype}", lost.value, "/float32/value"),
                measured("what it is given in float32", lost.wide, "/float32/float32"),
                *(
                    (
                        measured(
                            f"a constant of {constant.op_type} in float32",
                            constant.wide,
                            "/float32/float32",
                        ),
                        measured(
                            f"the same constant in {constant.dtype}",
                            constant.value,
                            "/float32/value",
                        ),
                    )
                    if constant is not None
                    else ()
                ),
            ),
            remedies=_remedies(found, constant),
            proofs=(Proof("float32"),),
            explains=frozenset() if nearly else _EFFECTS,
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return a norm, an optimizer, a confident probability and a derivative."""
        return (
            Example("a norm that adds 1e-8 to a variance of 0 in float16", _norm),
            Example("Adam with an epsilon of 1e-8 on float16 weights", _adam),
            Example("the log of 1 - p, for p = 0.999 in bfloat16", _sure),
            Example("the root of a square that is 0 in float16, in the derivative", _root),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return what fails in float32 too, and what is no matter of a small number."""
        return (
            Example("a healthy run", training_trace),
            Example("an empty mask, in float16 and in float32", _empty),
            Example("a quotient beyond float16", _quotient),
            Example("a step that fails in float32 elsewhere", _elsewhere),
            Example("a division by zero in float32", _in_float32),
        )


def _sentence(found: Beside, lost: Pair, constant: Pair | None) -> str:
    producer = found.producer
    of = "The derivative of " if producer.derivative else ""
    place = "in the update" if found.stage == "update" else producer.place
    said = (
        f"{of}{producer.op_type} {place} was given {spelled(lost.value)} in {found.dtype}, where "
        f"float32 has {spelled(lost.wide)}"
    )
    where = found.where_lost()
    if constant is not None:
        said += (
            f": the constant {spelled(constant.wide)} of {constant.op_type} is "
            f"{spelled(constant.value)} in {constant.dtype}"
        )
    elif where is not None:
        said += f": it was lost in {where.op_type}"
    return f"{said}{producer.whom}."


_WHOLE: Final = (
    "Keep the weights in float32, `keras.config.set_dtype_policy('mixed_float16')`, or compute in "
    "bfloat16 where numbers are small and in float32 where they lie close to 1."
)


def _remedies(found: Beside, constant: Pair | None) -> tuple[str, ...]:
    if found.stage == "update":
        return (
            (
                "Give the optimizer an epsilon that float16 knows, "
                "`keras.optimizers.Adam(epsilon=1e-4)` (its smallest number is 6e-8, with full "
                "digits 6.1e-5)."
            ),
            (
                "Better keep weights and slots in float32: "
                '`keras.config.set_dtype_policy("mixed_float16")` in place of `"float16"`.'
            ),
        )
    layer = found.producer.layer
    one = constant is not None and constant.value == 1
    return (
        (
            f"Compute {layer!r} in float32: give it `dtype='float32'`."
            if layer
            else "Compute the loss in float32: `tf.cast(y_pred, tf.float32)` as its first line, "
            "and `dtype='float32'` for the last layer."
        ),
        (
            "Clip to what the dtype tells from 1, `tf.clip_by_value(p, 1e-3, 1 - 1e-3)` in "
            "float16, or use the loss on logits, `from_logits=True`."
            if one
            else "Raise the epsilon to what the dtype knows: 1e-4 in float16, or "
            "`keras.backend.epsilon()` (1e-7) in float32."
        ),
        _WHOLE,
    )


def _half(event: SyntheticEvent, *rows: dict[str, Any], **fields: Any) -> Trace:
    run: dict[str, Any] = {"dtype": "float16", "losses": (math.nan,), "outcome": "diverged"}
    return training_trace(**{**run, **fields}, events=(event,), float32=rows)


def _row(op_type: str, role: str, value: float, wide: float, **fields: Any) -> dict[str, Any]:
    return {"op_type": op_type, "role": role, "value": value, "float32": wide, **fields}


_DIVIDED: Final = SyntheticEvent(
    "RealDiv",
    phase="forward",
    layer="norm",
    source="norm.py:9",
    samples=(2, 5),
    inputs=([0.0], [0.0]),
    input_values=(0.0, 0.0),
)


def _norm() -> Trace:
    return _half(
        _DIVIDED,
        _row("RealDiv", "input", 0.0, 0.0),
        _row("RealDiv", "input", 0.0, 1e-4, position=1),
        _row("Sqrt", "output", 0.0, 1e-4, link=0),
        _row("AddV2", "input", 0.0, 1e-8, link=1, position=1, origin="constant"),
        _row("AddV2", "output", 0.0, 1e-8, link=1),
    )


def _adam() -> Trace:
    event = SyntheticEvent(
        "RealDiv", phase="update", reaches="state", inputs=([0.0], [0.0]), input_values=(0.0, 0.0)
    )
    return _half(
        event,
        _row("RealDiv", "input", 0.0, 0.0),
        _row("RealDiv", "input", 0.0, 1e-8, position=1),
        _row("AddV2", "input", 0.0, 1e-8, link=0, position=1, origin="constant"),
        _row("AddV2", "output", 0.0, 1e-8, link=0),
        losses=(0.69,),
    )


def _sure() -> Trace:
    event = SyntheticEvent("Log", inputs=([0.0],), input_values=(0.0,), outputs=([-math.inf],))
    return _half(
        event,
        _row("Log", "input", 0.0, 0.00097, dtype="float32"),
        _row("Sub", "output", 0.0, 0.00097, link=0, dtype="bfloat16"),
        _row("Sigmoid", "output", 1.0, 0.99903, link=1, dtype="bfloat16"),
        dtype="float32",
    )


def _root() -> Trace:
    event = SyntheticEvent(
        "Sqrt", phase="backward", derivative=True, reaches="gradient", inputs=([0.0],)
    )
    return _half(
        event,
        _row("RealDiv", "output", math.inf, 5e5),
        _row("Sqrt", "input", 0.0, 1e-10, link=-2),
        losses=(0.3,),
    )


def _empty() -> Trace:
    return _half(
        _DIVIDED,
        _row("RealDiv", "input", 0.0, 0.0),
        _row("RealDiv", "input", 0.0, 0.0, position=1),
        _row("RealDiv", "output", math.nan, math.nan),
    )


def _quotient() -> Trace:
    return _half(
        _DIVIDED,
        _row("RealDiv", "input", 8.0, 8.0),
        _row("RealDiv", "input", 1e-5, 1e-5, position=1),
        _row("RealDiv", "output", math.inf, 8e5),
    )


def _elsewhere() -> Trace:
    return _half(_DIVIDED, _row("RealDiv", "input", 0.0, 0.3, position=1, step_finite=False))


def _in_float32() -> Trace:
    return training_trace(losses=(math.nan,), events=(_DIVIDED,))
