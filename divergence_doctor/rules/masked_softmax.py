"""Was a softmax taken over a row of which a mask has left nothing?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.rules._links import MOVES, Link, links_of
from divergence_doctor.rules._producer import bad_output, left_out, measured, producer_of, read
from divergence_doctor.rules._rule import Example, Finding, Proof, Rule
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.rules._producer import Producer
    from divergence_doctor.trace import Trace

_SOFTMAXES: Final = frozenset({"Softmax", "LogSoftmax"})
#: What hands on the largest score of a row, or the logarithm of the sum of its exponentials.
_OF_ROW: Final = frozenset({"Max", "Log", "Add", "AddV2", *MOVES})
#: Ops that put a mask on scores.
_MASKING: Final = frozenset({"SelectV2", "Select", "Add", "AddV2", "Sub", "Mul", *MOVES})
#: Replaces minus infinity: exp of it is 0 in every dtype, and its difference to itself is 0.
_LARGE: Final = -1e9
#: The same for a softmax by hand that does not take the row's largest score away first: exp(-50) is
#: 2e-22, nothing beside exp of an ordinary score, and still a number to divide by.
_ORDINARY: Final = -50.0
#: What a mask by multiplication may leave of an exponential: nothing beside an ordinary one.
_LEFT: Final = 1e-9
#: A sum of exponentials that were masked after they were taken.
_OPENED: Final = (["Sum", "Mul"], ["Sum", "SelectV2"])


@final
@dataclass(frozen=True, slots=True)
class _Masked:
    """A softmax over nothing: the op that failed, what was seen of its scores, the trial."""

    producer: Producer
    score: float
    masked: int
    size: int
    how: str
    proof: Proof
    confidence: float


@final
class MaskedSoftmax(Rule):
    """A softmax was taken over a row in which every entry is masked.

    The first NaN of the step comes out of a softmax whose scores at that row are all minus
    infinity, or out of the arithmetic of a softmax by hand: minus infinity minus the row's largest
    score, which is minus infinity as well, or 0 divided by a sum of exponentials that are all 0.

    Why it diverges: exp(-inf) is 0, so a row without an open entry is 0/0. Every entry of the row
    becomes NaN, and with it what the row weighs. Leaving the row out of the loss later does not
    help: the loss is finite then, but a gradient of 0 times NaN is NaN in every weight upstream.

    Evidence: `events` (primary, op type, NaN in its output) and `operands` of the op: its score at
    the first bad element is minus infinity, and there is neither NaN nor +Inf among the scores; a
    softmax is NaN then only where the whole row is minus infinity, by its definition. By hand: NaN
    from a subtraction with minus infinity, and nothing else, on both sides; or `chain` leads from a
    denominator of 0 through the sum and the exponential to a score of minus infinity, or below
    -1e4, which ends as 0 in every dtype, or to a product with 0 whose other side is an exponential
    (`chain/beside`). Two masks of the dtype's lowest number that were added up to minus infinity,
    and the logarithm of a mask of zeros and ones, count as masks.

    Fix: mask with a large finite number, `tf.where(mask, scores, -1e9)` (-1e4 in float16): a row
    of which nothing is left becomes uniform instead of NaN. Then take the row out by its weight,
    `tf.where(tf.reduce_any(mask, -1, keepdims=True), weights, 0.0)`. The Keras layers do that:
    `keras.layers.MultiHeadAttention(...)(x, x, attention_mask=mask)`,
    `keras.layers.Softmax()(scores, mask=mask)`.

    Mistaken for: bad data, because it comes with single samples (an empty document, a node without
    a neighbour), and a learning rate that is too high. A row with one open entry is fine: -inf in
    a causal or padding mask is told, not blamed.

    Seen in: pytorch/pytorch#41508 (a fully masked row in attention), huggingface/transformers#31035
    (padding on the left), pytorch/pytorch#26098 (a node without a neighbour).
    """

    id = "masked-softmax"
    code = "DD205"
    explains = frozenset({"division-by-zero", "gradient-singularity", "log-of-zero"})
    needs = frozenset({"steps"})

    #: The op, its NaN and the minus infinity that it was given are on record.
    SEEN: ClassVar[float] = 0.95
    #: The minus infinity came about by arithmetic, and the softmax only later could not bear it.
    MADE: ClassVar[float] = 0.85
    #: Scores as low as this are a mask: exp of it is 0 in float64 too (below -746).
    MASK: ClassVar[float] = -1e4
    #: Numbers whose sum leaves float32, and that nothing but a mask holds.
    LOWEST: ClassVar[float] = -1e37

    def examine(self, trace: Trace) -> Finding | None:
        """Return the softmax over a masked row, or None."""
        producer = producer_of(trace)
        if producer is None or producer.derivative or producer.phase == "backward":
            return None
        looks = (self._softmax, self._by_subtraction, self._by_quotient, self._made)
        found = next((seen for look in looks if (seen := look(trace, producer))), None)
        return None if found is None else self._finding(found)

    def _softmax(self, trace: Trace, producer: Producer) -> _Masked | None:
        """Return a softmax op that was given a row of minus infinities."""
        scores = _taken(trace, producer, 0)
        if producer.op_type not in _SOFTMAXES or not producer.nan or scores is None:
            return None
        if not _only_masked(scores) or scores["value"] != -math.inf:
            return None
        return _Masked(
            producer,
            -math.inf,
            scores["neginf"],
            scores["size"],
            "was given a row in which every score is minus infinity",
            _proof(producer.op_type, producer.layer, producer.source),
            self.SEEN,
        )

    def _by_subtraction(self, trace: Trace, producer: Producer) -> _Masked | None:
        """Return minus infinity minus the row's largest score, also minus infinity."""
        scores, largest = _taken(trace, producer, 0), _taken(trace, producer, 1)
        if producer.op_type != "Sub" or not producer.nan or scores is None or largest is None:
            return None
        # Without NaN and +Inf on either side, NaN is made only where both are minus infinity.
        both = all(_only_masked(taken) for taken in (scores, largest))
        of_row = largest["origin_name"] in _OF_ROW and largest["size"] < scores["size"]
        if not both or not of_row:
            return None
        return _Masked(
            producer,
            -math.inf,
            scores["neginf"],
            scores["size"],
            "took the largest score of a row from each of its scores, and all are minus infinity",
            _proof("Sub", producer.layer, producer.source),
            self.SEEN,
        )

    def _by_quotient(self, trace: Trace, producer: Producer) -> _Masked | None:
        """Return 0 divided by a sum of exponentials of which each is 0 because of a mask."""
        parts = producer.all("input")
        if producer.op_type not in {"RealDiv", "Div"} or len(parts) != 2:
            return None
        if any(part.value != 0 for part in parts):
            return None
        steps = [link for link in links_of(trace, producer) if link.name not in MOVES]
        names = [link.name for link in steps[:2]]
        if names in _OPENED and steps[1].value == 0 and steps[1].beside == "Exp":
            return self._by_product(producer, steps[1])
        if names != ["Sum", "Exp"] or len(steps) < 3:
            return None
        power, score = steps[1], steps[2]
        masked = score.value == -math.inf or score.value <= self.MASK
        if not masked or (score.what == "op" and score.name not in _MASKING):
            return None
        return _Masked(
            producer,
            score.value,
            parts[1].zero,
            parts[1].size,
            f"divided 0 by a sum of exponentials that are all 0, for the mask has made the scores "
            f"{score.value:g}",
            _proof("Exp", power.layer, power.source, floor=_ORDINARY),
            self.SEEN,
        )

    def _by_product(self, producer: Producer, masked: Link) -> _Masked:
        """Return 0 divided by a sum of exponentials that a mask of zeros was multiplied with."""
        below = producer.all("input")[1]
        return _Masked(
            producer,
            0.0,
            below.zero,
            below.size,
            "divided 0 by a sum of exponentials of which the mask has left none",
            _proof(masked.name, masked.layer, masked.source, where="result", floor=_LEFT),
            self.SEEN,
        )

    def _made(self, trace: Trace, producer: Producer) -> _Masked | None:
        """Return the softmax that a minus infinity made by arithmetic on a mask was handed to."""
        if producer.nan or not self._makes_mask(trace, producer):
            return None
        softmax = _first_nan(trace, producer)
        if softmax is None:
            return None
        how = "of the zeros of a mask" if producer.op_type == "Log" else "of two masks added up"
        return _Masked(
            softmax if producer.op_type == "Log" else producer,
            -math.inf,
            producer.inf,
            producer.inf,
            f"made minus infinities {how}, and {softmax.op_type} {softmax.place} was given a row "
            "of nothing else"
            if producer.op_type != "Log"
            else "was given a row in which every score is minus infinity, the logarithm of the "
            "zeros of a mask",
            _proof(producer.op_type, producer.layer, producer.source, where="result", floor=_LARGE),
            self.MADE,
        )

    def _makes_mask(self, trace: Trace, producer: Producer) -> bool:
        operands = producer.all("input")
        if producer.op_type == "Log":
            scores = _taken(trace, producer, 0)
            return scores is not None and _zeros_and_ones(scores)
        if producer.op_type not in {"Add", "AddV2", "Sub"} or not operands:
            return False
        wide = not any(operand.low_precision for operand in operands)
        return wide and any(operand.smallest() <= self.LOWEST for operand in operands)

    def _finding(self, found: _Masked) -> Finding:
        producer = found.producer
        dropped = producer.loss_finite and producer.reaches != "loss"
        tail = "; the loss leaves that row out, but 0 times NaN is NaN in the gradient"
        return Finding(
            cause=self.id,
            summary=(
                f"{producer.op_type} {producer.place} {found.how}: nothing is left to weigh, "
                f"which is 0/0{tail if dropped else ''}{producer.whom}."
            ),
            confidence=found.confidence,
            stage=producer.stage,
            site=producer.site,
            samples=producer.blamed,
            evidence=(
                measured("masked entries among the scores", found.masked, "/operands/neginf"),
                measured("scores", found.size, "/operands/size"),
                bad_output(producer),
            ),
            remedies=_REMEDIES,
            proofs=(found.proof, *left_out(producer)),
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return softmaxes over nothing, built in and by hand."""
        return (
            Example("a softmax over a row of minus infinities", _row),
            Example("the same row left out of the loss", _dropped),
            Example("minus infinity minus the largest score of its row", _subtracted),
            Example("0 by a sum of exponentials of masked scores", _quotient),
            Example("0 by a sum of exponentials that a mask was multiplied with", _product),
            Example("two masks of the lowest float32 added up", _added),
            Example("the logarithm of a mask of zeros and ones", _logged),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return masks that are fine, and softmaxes that broke on something else."""
        return (
            Example("a healthy run", training_trace),
            Example("a softmax over scores of which one is plus infinity", _overflowed),
            Example("a softmax that was handed NaN", _handed),
            Example("a mask whose rows all keep an entry, told as harmless", _causal),
            Example("0 by a sum of exponentials of very low, unmasked scores", _low),
            Example("the mean over an empty mask", _empty_mean),
            Example("a weighted mean whose weights are all masked", _weighted_mean),
            Example("the logarithm of probabilities of which one is 0", _probabilities),
        )


_REMEDIES: Final = (
    (
        "Mask with a large finite number: `tf.where(mask, scores, -1e9)` (-1e4 in float16). A row "
        "of which nothing is left becomes uniform instead of NaN."
    ),
    (
        "Or let Keras mask: `keras.layers.MultiHeadAttention(heads, size)(x, x, "
        "attention_mask=mask)` or `keras.layers.Softmax()(scores, mask=mask)`."
    ),
    (
        "Where such a row should weigh nothing, take it out after the softmax: "
        "`tf.where(tf.reduce_any(mask, -1, keepdims=True), weights, 0.0)`; and keep samples "
        "without any open entry out of the batch."
    ),
)


def _taken(trace: Trace, producer: Producer, position: int) -> dict[str, Any] | None:
    """Return the row of one of the producer's inputs, with its counts of NaN and of either Inf."""
    rows = trace.table("operands").select(
        step=producer.step, op=producer.op, role="input", position=position
    )
    return rows.row(0) if len(rows) else None


def _only_masked(operand: dict[str, Any]) -> bool:
    """Say whether minus infinity is all that is not finite among the operand's elements."""
    return bool(operand["neginf"] > 0 and operand["posinf"] <= 0 and operand["nan"] <= 0)


def _zeros_and_ones(operand: dict[str, Any]) -> bool:
    total = operand["mean"] * operand["size"]
    ones = operand["size"] - operand["zero"]
    return bool(
        operand["zero"] > 0
        and operand["min"] == 0
        and (operand["max"] == 1 or not ones)
        and abs(total - ones) <= 1e-6 * operand["size"]
    )


def _first_nan(trace: Trace, producer: Producer) -> Producer | None:
    """Return the first op after the producer whose output is NaN, if it is a softmax."""
    rows = trace.table("events").select(step=producer.step, derivative=False)
    later = rows.where((rows["op"] > producer.op) & (rows["nan"] > 0))
    if not len(later):
        return None
    first = min(later.rows(), key=lambda row: int(row["op"]))
    of_it = first["op_type"] in _SOFTMAXES and first["origin_name"] == producer.op_type
    return read(trace, first) if of_it else None


def _proof(
    op_type: str, layer: str, source: str, *, where: str = "input", floor: float = _LARGE
) -> Proof:
    return Proof(
        "finite-mask",
        {"op_type": op_type, "layer": layer, "source": source, "where": where, "floor": floor},
    )


# ---------------------------------------------------------------------- examples

_INF: Final = math.inf


def _softmax_event(**fields: Any) -> SyntheticEvent:
    given = {
        "phase": "forward",
        "layer": "attention",
        "samples": (3,),
        "inputs": ([[0.3, -_INF], [-_INF, -_INF]],),
        "input_values": (-_INF,),
        "outputs": ([[1.0, 0.0], [math.nan, math.nan]],),
    }
    return SyntheticEvent("Softmax", **{**given, **fields})


def _lost(*events: SyntheticEvent) -> Trace:
    return training_trace(losses=(math.nan,), events=events)


def _row() -> Trace:
    return _lost(_softmax_event())


def _dropped() -> Trace:
    event = _softmax_event(reaches="gradient")
    return training_trace(losses=(0.4,), outcome="diverged", events=(event,))


def _subtracted() -> Trace:
    event = SyntheticEvent(
        "Sub",
        phase="forward",
        layer="attention",
        inputs=([[-_INF, -_INF]], [[-_INF]]),
        input_values=(-_INF, -_INF),
        input_makers=("SelectV2", "Max"),
        outputs=([[math.nan, math.nan]],),
    )
    return _lost(event)


def _by_hand(score: float, maker: str) -> Trace:
    names = (("Sum", 0.0), ("Exp", 0.0), (maker, score))
    event = SyntheticEvent(
        "RealDiv",
        phase="forward",
        layer="attention",
        inputs=([0.0, 0.0], [0.0]),
        input_values=(0.0, 0.0),
        chain=[{"name": name, "layer": "attention", "value": value} for name, value in names],
    )
    return _lost(event)


def _quotient() -> Trace:
    return _by_hand(-1e9, "SelectV2")


def _product() -> Trace:
    return _weighted("Exp")


def _weighted(beside: str) -> Trace:
    event = SyntheticEvent(
        "RealDiv",
        phase="forward",
        layer="attention",
        inputs=([0.0, 0.0], [0.0]),
        input_values=(0.0, 0.0),
        chain=[
            {"name": "Sum", "layer": "attention", "value": 0.0},
            {"name": "Mul", "layer": "attention", "value": 0.0, "beside": beside},
            {"what": "batch", "name": "mask", "value": 0.0},
        ],
    )
    return _lost(event)


def _weighted_mean() -> Trace:
    return _weighted("MatMul")


def _low() -> Trace:
    return _by_hand(-200.0, "BiasAdd")


def _empty_mean() -> Trace:
    event = SyntheticEvent(
        "RealDiv",
        phase="forward",
        layer="pool",
        inputs=([0.0], [0.0]),
        input_values=(0.0, 0.0),
        chain=[
            {"name": "Sum", "layer": "pool", "value": 0.0},
            {"what": "batch", "name": "mask", "value": 0.0},
        ],
    )
    return _lost(event)


def _carried(maker: str) -> SyntheticEvent:
    return _softmax_event(produced=False, primary=False, origin_name=maker)


def _added() -> Trace:
    lowest = -3.4028235e38
    event = SyntheticEvent(
        "AddV2",
        phase="forward",
        layer="attention",
        inputs=([lowest, lowest], [lowest, lowest]),
        input_values=(lowest, lowest),
        outputs=([-_INF, -_INF],),
    )
    return _lost(event, _carried("AddV2"))


def _log_of(values: list[float]) -> Trace:
    event = SyntheticEvent(
        "Log",
        phase="forward",
        layer="attention",
        inputs=(values,),
        input_values=(0.0,),
        outputs=([-_INF, 0.0, 0.0],),
    )
    return _lost(event, _carried("Log"))


def _logged() -> Trace:
    return _log_of([0.0, 1.0, 1.0])


def _probabilities() -> Trace:
    return _log_of([0.0, 0.4, 0.6])


def _overflowed() -> Trace:
    return _lost(_softmax_event(inputs=([[_INF, -_INF]],), input_values=(_INF,)))


def _handed() -> Trace:
    return _lost(_softmax_event(produced=False, origin="batch", origin_name="x"))


def _causal() -> Trace:
    event = SyntheticEvent(
        "SelectV2", produced=False, origin="constant", reaches="", primary=False, outputs=([-_INF],)
    )
    return training_trace(outcome="healthy", events=(event,))
