"""Did a number leave float16 that float32 holds with ease?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.rules._precision import beside, spelled
from divergence_doctor.rules._producer import LOW_PRECISION, measured
from divergence_doctor.rules._rule import Evidence, Example, Finding, Proof, Rule
from divergence_doctor.rules._runaway import ran_away
from divergence_doctor.rules._singular import GROWING, LARGEST
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.rules._precision import Beside, Pair
    from divergence_doctor.trace import Trace

#: What a number beyond the dtype looks like by itself, and what becomes of an infinity.
_EFFECTS: Final = frozenset(
    {
        *("exploding-activation", "exploding-gradient", "exp-overflow", "masked-softmax"),
        *("division-by-zero", "invalid-domain", "degenerate-normalization"),
    }
)


@final
class LowPrecisionOverflow(Rule):
    """A number is finite in float32 and beyond float16, or bfloat16, where it was computed.

    The first bad value of the step comes out of an op in half precision, or is a constant that the
    dtype cannot hold. The same step was computed once more in float32, from the same weights:
    there the number is finite, beyond the largest of the narrow dtype, and nothing of the step
    goes bad.

    Why it diverges: float16 ends at 65504. A residual stream that was trained in bfloat16 or
    float32 passes that in a deep block; a sum over many elements does; exp(12) does; a mask of
    -1e9 is -inf, and -inf times 0, or a row of nothing but -inf in a softmax, is NaN; the lowest
    number of the dtype plus an ordinary score is -inf.

    Evidence: `float32` (what the op put out beside what it puts out in float32), `step_finite`. The
    limit is the dtype's own largest number. `activations/absmax` tells the bits of headroom, the
    base-2 logarithm of the limit over the largest activation, layer by layer. Where float32 has
    1e10 and more, or the replayed steps themselves drove the number there, the precision only
    ended what was under way, and the confidence is below 0.5.

    Fix: bfloat16, which reaches as far as float32,
    `keras.config.set_dtype_policy("mixed_bfloat16")`; the layer that overflows in float32,
    `Dense(..., dtype="float32")`; a mask that fits, `tf.where(mask, scores, scores.dtype.min)` or
    -1e4, selected and not added.

    Mistaken for: exploding activations and a learning rate that is too high; in float32 the same
    step is an ordinary one. Loss scaling does not help: it moves gradients, not activations. That
    it skips steps while it searches for its scale is healthy.

    Seen in: huggingface/transformers#12225 and huggingface/transformers#11076 (a residual stream),
    huggingface/transformers#17306 (the lowest number as a mask).
    """

    id = "low-precision-overflow"
    code = "DD501"
    needs = frozenset({"steps"})

    #: The number, the limit that it passed, and the sane step in float32 are all on record.
    SEEN: ClassVar[float] = 0.92
    #: It overflowed inside the op: neither what went in nor what comes out is out of range.
    INSIDE: ClassVar[float] = 0.7
    #: The steps themselves drove it there, or it is far beyond any model trained in float32.
    DRIVEN: ClassVar[float] = 0.45
    #: A model's activations, trained in bfloat16 or float32, reach some 1e5 (transformers#12225);
    #: the square of 1e10 is far on its way to the end of float32.
    FAR: ClassVar[float] = 1e10
    #: The last number that rounds to infinity, relative to the largest: half a unit of its last
    #: place, and what sums in half precision add to that.
    NEAR: ClassVar[float] = 0.99

    def examine(self, trace: Trace) -> Finding | None:
        """Return the number that left the narrow dtype, or None."""
        found = beside(trace)
        if found is None or not found.finite or found.lost() is not None:
            return None
        met = self._entered(found) or self._made(found)
        if met is None:
            return None
        pair, size = met
        inside = size < LARGEST[pair.dtype] * self.NEAR
        driven = ran_away(trace) or size > self.FAR
        sure = self.INSIDE if inside else self.SEEN
        return Finding(
            cause=self.id,
            summary=_sentence(found, pair, size, inside=inside),
            confidence=self.DRIVEN if driven else sure,
            stage=found.stage,
            site=found.producer.site,
            samples=found.producer.blamed,
            evidence=(
                measured(f"largest magnitude of {pair.op_type} in float32", size,
                         "/float32/float32_absmax"),
                measured(f"largest number of {pair.dtype}", LARGEST[pair.dtype],
                         f"the dtype {pair.dtype}"),
                *_headroom(trace, found),
            ),
            remedies=_remedies(found, pair),
            proofs=(Proof("float32"),),
            explains=frozenset() if driven else _EFFECTS,
        )  # fmt: skip

    def _entered(self, found: Beside) -> tuple[Pair, float] | None:
        """Return an input that is infinite for the dtype alone: a constant, or what it became."""
        for pair in (*found.own("input"), *(p for p in found.pairs if p.origin == "constant")):
            known = pair.dtype in LARGEST and pair.narrow and pair.role == "input"
            if known and pair.went_bad and pair.wide_absmax >= LARGEST[pair.dtype] * self.NEAR:
                return pair, pair.wide_absmax
        return None

    def _made(self, found: Beside) -> tuple[Pair, float] | None:
        """Return what the op put out that is beyond the dtype, or overflowed on the way to it."""
        for pair in found.own("output"):
            if not (pair.narrow and pair.went_bad and pair.dtype in LARGEST):
                continue
            size = pair.wide_absmax if math.isnan(pair.wide) else abs(pair.wide)
            if max(size, pair.wide_absmax) >= LARGEST[pair.dtype] * self.NEAR:
                return pair, max(size, pair.wide_absmax)
            if pair.op_type in GROWING and all(p.nonfinite == 0 for p in found.own("input")):
                return pair, size
        return None

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return a product, an exponential, two masks and a mean."""
        return (
            Example("a matrix product of 94,750 in float16", _product),
            Example("exp(12) in float16", _exponential),
            Example("a mask of -1e9, which is -inf in float16, times 0", _mask),
            Example("float16's lowest number plus a score of -64", _lowest),
            Example("a mean of 200 over so many that their sum leaves float16", _mean),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return what overflows float32 too, and what is too small rather than too large."""
        return (
            Example("a healthy run", training_trace),
            Example("exp(100), which overflows float32 as well", _in_either),
            Example("1/sqrt of a number that is 0 in float16 alone", _small),
            Example("an overflow in float32", _in_float32),
            Example("a log of 0 in float16, a log of 1e-9 in float32", _logarithm),
        )


def _sentence(found: Beside, pair: Pair, size: float, *, inside: bool) -> str:
    producer = found.producer
    of = "the derivative of " if producer.derivative else ""
    place = "in the update" if found.stage == "update" else producer.place
    limit = f"{pair.dtype} ends at {LARGEST[pair.dtype]:g}"
    if pair.role == "input":
        what = "a constant" if pair.origin == "constant" else "an input"
        at = pair.wide if math.isfinite(pair.wide) else size
        said = f"{what} of {of}{producer.op_type} {place} is {spelled(at)} in float32 and {limit}"
    elif inside:
        said = (
            f"{of}{producer.op_type} {place} overflows {pair.dtype} on the way to {spelled(size)}, "
            "which is what float32 gives"
        )
    else:
        at = pair.wide if abs(pair.wide) >= LARGEST[pair.dtype] else size
        said = f"{of}{producer.op_type} {place} gives {spelled(at)} in float32 and {limit}"
    return f"{said[0].upper()}{said[1:]}{producer.whom}."


def _headroom(trace: Trace, found: Beside) -> tuple[Evidence, ...]:
    """Return the three layers whose activations come nearest to the end of their dtype, in bits."""
    rows = trace.table("activations").select(step=found.producer.step)
    if not len(rows):
        return ()
    bits: dict[str, tuple[float, str]] = {}
    for layer, dtype, absmax in zip(rows["layer"], rows["dtype"], rows["absmax"], strict=True):
        if dtype in LOW_PRECISION and dtype in LARGEST and layer and absmax > 0:
            left = float(np.log2(LARGEST[dtype] / absmax))
            bits[layer] = min(bits.get(layer, (math.inf, "")), (left, dtype))
    least = sorted(bits, key=lambda layer: bits[layer])[:3]
    return tuple(
        measured(
            f"bits of headroom that {layer!r} leaves in {bits[layer][1]}",
            round(bits[layer][0], 2),
            "/activations/absmax",
        )
        for layer in least
    )


def _remedies(found: Beside, pair: Pair) -> tuple[str, ...]:
    wide = (
        "Compute in bfloat16, which ends where float32 ends: "
        '`keras.config.set_dtype_policy("mixed_bfloat16")`.'
    )
    layer = found.producer.layer
    point = (
        f"Compute {layer!r} in float32: give it `dtype='float32'`."
        if layer
        else "Compute the loss in float32: `tf.cast(y_pred, tf.float32)` as its first line."
    )
    mask = (
        "Mask by selecting a number that the dtype holds, "
        "`tf.where(mask, scores, scores.dtype.min)`, and not by adding or multiplying with -1e9; "
        "or give the attention layer its mask "
        "(`attention_mask=`), or compute the softmax in float32."
    )
    negative = pair.wide < 0 or pair.origin == "constant"
    return (mask, point, wide) if negative else (point, wide)


def _half(event: SyntheticEvent, *rows: dict[str, Any], **fields: Any) -> Trace:
    run: dict[str, Any] = {"dtype": "float16", "losses": (math.nan,), "outcome": "diverged"}
    return training_trace(**{**run, **fields}, events=(event,), float32=rows)


def _row(op_type: str, role: str, value: float, wide: float, **fields: Any) -> dict[str, Any]:
    return {"op_type": op_type, "role": role, "value": value, "float32": wide, **fields}


def _event(op_type: str, **fields: Any) -> SyntheticEvent:
    return SyntheticEvent(
        op_type, phase="forward", layer="block_3", outputs=([math.inf],), **fields
    )


def _product() -> Trace:
    return _half(
        _event("MatMul", inputs=([553.5], [140.1])), _row("MatMul", "output", math.inf, 94749.55)
    )


def _exponential() -> Trace:
    return _half(
        _event("Exp", inputs=([12.0],), input_values=(12.0,)),
        _row("Exp", "input", 12.0, 12.0),
        _row("Exp", "output", math.inf, 162754.8),
    )


def _mask() -> Trace:
    return _half(
        SyntheticEvent("Mul", phase="forward", layer="attention", inputs=([0.0], -math.inf)),
        _row("Mul", "input", 0.0, 0.0),
        _row("Mul", "input", -math.inf, -1e9, position=1, origin="constant"),
        _row("Mul", "output", math.nan, 0.0),
    )


def _lowest() -> Trace:
    return _half(
        _event("AddV2", inputs=([-64.0], [-65504.0])),
        _row("AddV2", "output", -math.inf, -65568.0),
    )


def _mean() -> Trace:
    return _half(_event("Mean", inputs=([200.0],)), _row("Mean", "output", math.inf, 200.0))


def _in_either() -> Trace:
    return _half(
        _event("Exp", inputs=([100.0],)),
        _row("Exp", "output", math.inf, math.inf, step_finite=False),
    )


def _small() -> Trace:
    return _half(
        _event("Rsqrt", inputs=([0.0],), input_values=(0.0,)),
        _row("Rsqrt", "input", 0.0, 1e-12),
        _row("Rsqrt", "output", math.inf, 1e6),
    )


def _in_float32() -> Trace:
    return training_trace(losses=(math.inf,), events=(_event("MatMul", inputs=([1e38], [1e3])),))


def _logarithm() -> Trace:
    return _half(
        SyntheticEvent("Log", inputs=([0.0],), input_values=(0.0,), outputs=([-math.inf],)),
        _row("Log", "input", 0.0, 1e-9),
        _row("Log", "output", -math.inf, -20.7),
    )
