"""Did a normalisation divide by a deviation of zero that its epsilon does not keep away?"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.rules._links import MOVES, Link, links_of
from divergence_doctor.rules._producer import (
    bad_output,
    figure,
    left_out,
    measured,
    primary_of,
    producer_of,
)
from divergence_doctor.rules._rule import Example, Finding, Proof, Rule, Site
from divergence_doctor.rules._singular import DIVISIONS, negligible
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.rules._producer import Operand, Producer
    from divergence_doctor.trace import Trace

#: Ops between a variance and the division by its root: the root, a guard, another shape.
_GUARDING: Final = frozenset({"Sqrt", "Pow", "Add", "AddV2", "Maximum", "SelectV2", *MOVES})
_ROOTS: Final = frozenset({"Sqrt", "Pow"})
#: Ops that square what a variance is the mean of.
_SQUARES: Final = frozenset({"Square", "Mul", "Pow"})
#: A mean by hand: the sum, over n or n - 1.
_SCALED: Final = frozenset({"RealDiv", "Mul", "DivNoNan"})


@final
@dataclass(frozen=True, slots=True)
class _Variance:
    """A variance on the way back: the op that averaged, and over how many values (0: unknown)."""

    link: Link
    values: int


@final
class DegenerateNormalization(Rule):
    """A normalisation divided by a deviation of zero that its epsilon does not keep away from zero.

    The first bad value of the step comes out of the division by a standard deviation (or out of its
    derivative) inside a normalisation: a Keras layer of that kind, or a user's layer that divides
    what it has centred by the deviation of the same values.

    Why it diverges: where all values that are normalised together are alike, their variance is 0:
    a padded row, a constant feature, a map of one pixel, a batch of one. 0 / sqrt(0 + epsilon) is 0
    with a sane epsilon and NaN without one. An epsilon that is added after the root,
    `variance**0.5 + 1e-6`, leaves the derivative of the root at 0, which is infinite; a very small
    one multiplies the gradient by 1 / sqrt(epsilon) instead, step after step.

    Evidence: `events` (primary, op type, layer class) and the denominator in `operands`, as good as
    zero: below 1/sqrt(max) of its dtype (5.4e-20 in float32). For a Keras layer its `layers/config`
    says the epsilon. By hand, `chain` leads from the denominator to a mean of squared differences,
    and the numerator is what was centred; over how many values, from the sizes in the chain. For a
    derivative, `events/divides` says that the root is divided by. Without a bad value in the layer:
    an epsilon below 1e-7, the resolution of float32 beside 1, and a gradient that grows by more
    than 1e4 through that layer (`gradients/absmax`), to be proven by a trial.

    Fix: `keras.layers.LayerNormalization(epsilon=1e-3)`, Keras' default, in place of 0; by hand the
    epsilon inside the root, `(x - mean) * tf.math.rsqrt(variance + 1e-3)`. Over one value there is
    nothing to normalise: `keras.layers.LayerNormalization` over the channels in place of a batch or
    instance normalisation, or `dataset.batch(n, drop_remainder=True)`.

    Mistaken for: `division-by-zero` somewhere in the model, and bad data, because it needs a row of
    zeros. A zero variance behind Keras' default epsilon is harmless. In half precision an epsilon
    may have been rounded to 0 (`low-precision-underflow`).

    Seen in: tensorflow/tensorflow#61287 (LayerNormalization with epsilon 0 on a zero vector),
    tensorflow/tensorflow#34062 and pytorch/pytorch#1381 (one value per channel).
    """

    id = "degenerate-normalization"
    code = "DD602"
    explains = frozenset({"division-by-zero", "gradient-singularity"})
    needs = frozenset({"steps"})

    #: The layer, its epsilon and the zero below the line are on record.
    SEEN: ClassVar[float] = 0.95
    #: That it is a normalisation is read from the ops.
    BY_HAND: ClassVar[float] = 0.9
    #: Nothing bad was seen in the layer: that it drove the gradient off is for the trial.
    UNPROVEN: ClassVar[float] = 0.45
    #: Float32's resolution beside 1; Keras' smallest default is 1e-6 (RMSNormalization).
    TINY: ClassVar[float] = 1e-7
    #: 1 / sqrt(1e-8): what a variance of 0 does to a gradient under such an epsilon, at least.
    GROWS: ClassVar[float] = 1e4
    #: Keras' default, which the trial puts in.
    SANE: ClassVar[float] = 1e-3

    def examine(self, trace: Trace) -> Finding | None:
        """Return the normalisation that does not bear its variance, or None."""
        producer = producer_of(trace)
        if producer is not None and (found := self._direct(trace, producer)) is not None:
            return found
        return self._amplifying(trace)

    def _direct(self, trace: Trace, producer: Producer) -> Finding | None:
        operand = _deviation(producer)
        inside = producer.layer and producer.phase in {"forward", "backward"}
        if operand is None or not inside:
            return None
        epsilon = _epsilon(trace, producer)
        if operand.low_precision and epsilon != 0:
            return None
        variance = _variance(links_of(trace, producer))
        if epsilon is not None:
            proofs = (self._enlarged([producer.layer]), *_moving(producer))
            return self._finding(producer, operand, variance, epsilon, proofs)
        if variance is None or not _normalises(trace, producer):
            return None
        averaged = {
            "op_type": variance.link.name,
            "layer": variance.link.layer,
            "source": variance.link.source,
            "epsilon": self.SANE,
        }
        return self._finding(
            producer, operand, variance, None, (Proof("enlarge-epsilon", averaged),)
        )

    def _enlarged(self, layers: list[str]) -> Proof:
        return Proof("enlarge-epsilon", {"layers": layers, "epsilon": self.SANE})

    def _finding(
        self,
        producer: Producer,
        operand: Operand,
        variance: _Variance | None,
        epsilon: float | None,
        proofs: tuple[Proof, ...],
    ) -> Finding:
        evidence = [
            measured("what was divided by, there", operand.nearest(0.0), "/operands/value"),
            measured("zeros among it", operand.zero, "/operands/zero"),
            bad_output(producer),
        ]
        if epsilon is not None:
            evidence.append(measured("epsilon of the layer", epsilon, "/layers/config"))
        if variance is not None and variance.values:
            evidence.append(
                measured("values that are normalised together", variance.values, "/chain/size")
            )
        one = variance is not None and variance.values == 1
        return Finding(
            cause=self.id,
            summary=_sentence(producer, operand, variance, epsilon),
            confidence=self.SEEN if epsilon is not None else self.BY_HAND,
            stage=producer.stage,
            site=producer.site,
            samples=producer.blamed,
            evidence=tuple(evidence),
            remedies=(*(_OVER_ONE if one else ()), *(_OF_LAYER if epsilon is not None else _HAND)),
            proofs=(*proofs, *left_out(producer)),
        )

    def _amplifying(self, trace: Trace) -> Finding | None:
        """Return normalisations of a tiny epsilon that the gradient grows through."""
        if trace.outcome != "diverged":
            return None
        found = [
            (row["layer"], epsilon, growth)
            for row in trace.table("layers").rows()
            if (epsilon := _configured(row)) is not None
            and epsilon < self.TINY
            and (growth := _growth(trace, row["layer"])) > self.GROWS
        ]
        if not found:
            return None
        layer, epsilon, growth = max(found, key=lambda item: item[2])
        producer = primary_of(trace)
        site = producer.site if producer is not None else Site(trace.failing_step or 0, layer)
        return Finding(
            cause=self.id,
            summary=(
                f"The gradient grows {figure(growth)} times through layer {layer!r}, a "
                f"normalisation whose epsilon of {epsilon:g} does not keep its divisor from 0."
            ),
            confidence=self.UNPROVEN,
            stage="backward",
            site=site,
            evidence=(
                measured("epsilon of the layer", epsilon, "/layers/config"),
                measured("growth of the gradient through it", growth, "/gradients/absmax"),
            ),
            remedies=_OF_LAYER,
            proofs=(self._enlarged([name for name, *_ in found]),),
            explains=frozenset({"exploding-gradient", "high-learning-rate"}),
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return normalisations of either kind, in value and in slope."""
        return (
            Example("a layer normalisation with epsilon 0 on a row of zeros", _layer),
            Example("an instance normalisation by hand over a map of one pixel", _by_hand),
            Example("the derivative of the root, the epsilon added after it", _after_the_root),
            Example("the derivative of rsqrt at an epsilon of 1e-30", _slope),
            Example("a gradient that grows 1e6 times under an epsilon of 1e-12", _amplified),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return divisions by zero that are no normalisation, and normalisations that are fine."""
        return (
            Example("a healthy run under an epsilon of 1e-12", _healthy),
            Example("the norm of a zero row in a user's layer", _norm),
            Example("a correlation in the loss", _in_loss),
            Example("a deviation that is a feature, not a divisor", _feature),
            Example("an epsilon that half precision has rounded to 0", _half),
            Example("a negative moving variance", _negative),
            Example("a gradient that grows under Keras' default epsilon", _default),
        )


# ---------------------------------------------------------------------- what was divided by


def _deviation(producer: Producer) -> Operand | None:
    """Return what is as good as 0 below the line, or under the root whose slope went bad."""
    if producer.op_type in _ROOTS:
        slope = producer.derivative or _exponent(producer) < 0
        found = producer.input(0) or next(iter(producer.all("output")), None)
        found = found if slope and _exponent(producer) < 1 else None
    else:
        found = producer.input(DIVISIONS.get(producer.op_type, -1))
    if found is None:
        return None
    value = found.nearest(0.0)
    # rsqrt'(x) is -x**-1.5 / 2, which leaves float32 below 1e-25.
    small = _RSQRT if producer.derivative and producer.op_type == "Rsqrt" else 0.0
    return found if 0 <= value <= max(negligible(found.dtype), small) else None


_RSQRT: Final = 1e-25


def _exponent(producer: Producer) -> float:
    """Return the power that is taken; 0.5 where it is a square root or not on record."""
    exponent = producer.input(1) if producer.op_type == "Pow" else None
    value = exponent.smallest() if exponent is not None else math.nan
    return value if math.isfinite(value) else 0.5


def _epsilon(trace: Trace, producer: Producer) -> float | None:
    """Return the epsilon of the Keras normalisation that the op ran in; None in any other layer."""
    rows = trace.table("layers").select(layer=producer.layer)
    return _configured(rows.row(0)) if len(rows) else None


def _configured(row: dict[str, Any]) -> float | None:
    if not row["layer_class"].endswith("Normalization"):
        return None
    try:
        epsilon = json.loads(row["config"] or "{}").get("epsilon")
    except ValueError:
        return None
    return float(epsilon) if isinstance(epsilon, int | float) else None


def _variance(links: tuple[Link, ...]) -> _Variance | None:
    """Return the mean of squared differences that a chain leads to, if that is what it does."""
    rest = list(links)
    while rest and rest[0].name in _GUARDING and rest[0].what == "op":
        rest.pop(0)
    if len(rest) > 2 and rest[0].name == "Sub":
        return _of_moments(rest)
    if rest and rest[0].name in _SCALED:
        rest.pop(0)
        kind = "Sum"
    else:
        kind = "Mean"
    if len(rest) < 2 or rest[0].name != kind:
        return None
    averaged, squared = rest[0], rest[1]
    centred = squared.name == "SquaredDifference" or (
        squared.name in _SQUARES and len(rest) > 2 and rest[2].name == "Sub"
    )
    if not centred:
        return None
    return _Variance(averaged, _ratio(squared, averaged))


def _of_moments(links: list[Link]) -> _Variance | None:
    """Return the variance where it is the mean of squares minus the square of the mean."""
    difference, first, second = links[:3]
    mean_first = first.name == "Mean" and second.name in _SQUARES
    if not mean_first and not (first.name in _SQUARES and second.name == "Mean"):
        return None
    whole = links[3] if not mean_first and len(links) > 3 else second
    return _Variance(difference, _ratio(whole, difference))


def _ratio(values: Link, mean: Link) -> int:
    return values.size // mean.size if mean.size > 0 and values.size > 0 else 0


def _normalises(trace: Trace, producer: Producer) -> bool:
    """Say whether what was divided is what was centred, or the root is divided by later."""
    if producer.derivative and producer.op_type in _ROOTS:
        rows = trace.table("events").select(step=producer.step, op=producer.op)
        return bool(len(rows) and "divides" in rows and rows["divides"][0])
    if producer.op_type in {"Rsqrt", "Reciprocal", "Inv", "Pow"}:
        return True
    numerator = producer.input(0)
    centred = numerator is not None and numerator.origin_name in {"Sub", *MOVES}
    return centred and numerator is not None and (producer.derivative or numerator.value == 0)


def _moving(producer: Producer) -> tuple[Proof, ...]:
    """Return the trial with moving statistics, where the layer has them."""
    if not producer.layer_class.endswith("BatchNormalization"):
        return ()
    return (Proof("inference-normalization", {"layers": [producer.layer]}),)


def _growth(trace: Trace, layer: str) -> float:
    """Return how many times larger the gradient before a layer is than behind it; 0 if unknown."""
    found = trace.table("gradients").select(variable="")
    largest = 0.0
    for step in sorted(set(found["step"].tolist())):
        rows = sorted(found.select(step=step).rows(), key=lambda row: int(row["order"]))
        for before, row in pairwise(rows):
            behind, ahead = float(row["absmax"]), float(before["absmax"])
            if row["layer"] == layer and behind > 0 and math.isfinite(ahead / behind):
                largest = max(largest, ahead / behind)
    return largest


# ---------------------------------------------------------------------- what is said


def _sentence(
    producer: Producer, operand: Operand, variance: _Variance | None, epsilon: float | None
) -> str:
    value = operand.nearest(0.0)
    what = "The derivative of " if producer.derivative else ""
    over = ""
    if variance is not None and variance.values:
        many = "one value" if variance.values == 1 else f"{variance.values:,} values that are alike"
        over = f" over {many}"
    with_it = f" and an epsilon of {epsilon:g}" if epsilon is not None else ""
    return (
        f"{what}{producer.op_type} {producer.place} normalises{over}: the divisor is "
        f"{figure(value)}, with a variance of 0{with_it}{producer.whom}."
    )


_OF_LAYER: Final = (
    "Give the layer its epsilon back, Keras' default: `epsilon=1e-3` (1e-6 at the very least).",
    (
        "Or keep rows and features that are alike away from it: mask padded steps, drop constant "
        "features where the data is loaded."
    ),
)
_HAND: Final = (
    (
        "Put an epsilon inside the root: `(x - mean) * tf.math.rsqrt(variance + 1e-3)`; after the "
        "root it does not protect the gradient."
    ),
    (
        "Or use the Keras layer: `keras.layers.LayerNormalization(epsilon=1e-3)`, "
        "`keras.layers.GroupNormalization(groups=-1)` for an instance normalisation."
    ),
)
_OVER_ONE: Final = (
    (
        "One value has no deviation: normalise over more, "
        "`keras.layers.LayerNormalization()` over the channels, or leave the normalisation out "
        "where only one pixel or one sample is left (`dataset.batch(n, drop_remainder=True)`)."
    ),
)


# ---------------------------------------------------------------------- examples


def _event(**fields: Any) -> SyntheticEvent:
    given = {
        "op_type": "Rsqrt",
        "phase": "forward",
        "layer": "norm",
        "layer_class": "LayerNormalization",
        "samples": (0,),
        "inputs": ([[0.0], [1.3]],),
        "input_values": (0.0,),
        "outputs": ([[math.inf], [0.9]],),
    }
    return SyntheticEvent(**{**given, **fields})


def _slope_of(op_type: str, value: float, **fields: Any) -> SyntheticEvent:
    return _event(
        op_type=op_type,
        phase="backward",
        derivative=True,
        reaches="gradient",
        inputs=([value, 1.0],),
        input_values=(value,),
        outputs=([1.0, 1.0],),
        **fields,
    )


def _trace(
    event: SyntheticEvent | None, epsilon: float | None, loss: float = math.nan, **fields: Any
) -> Trace:
    given: dict[str, Any] = {
        "losses": (loss,),
        "outcome": "diverged",
        "layers": ("dense", "norm", "dense_1"),
        "layer_class": "LayerNormalization" if epsilon is not None else "Custom",
        "configs": {} if epsilon is None else {"norm": {"epsilon": epsilon}},
        "events": () if event is None else (event,),
    }
    return training_trace(**{**given, **fields})


def _chain(*names: str, sizes: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    return [
        {"name": name, "layer": "norm", "value": 0.0, "size": sizes[at] if at < len(sizes) else 8}
        for at, name in enumerate(names)
    ]


def _layer() -> Trace:
    chain = _chain("AddV2", "Mean", "SquaredDifference", sizes=(2, 2, 16))
    return _trace(_event(chain=chain), 0.0)


def _quotient(chain: list[dict[str, Any]], maker: str, **fields: Any) -> SyntheticEvent:
    return _event(
        **{
            "op_type": "RealDiv",
            "layer_class": "Custom",
            "inputs": ([0.0], [0.0]),
            "input_values": (0.0, 0.0),
            "input_makers": (maker, "Sqrt"),
            "outputs": ([math.nan],),
            "chain": chain,
            **fields,
        }
    )


def _by_hand() -> Trace:
    return _trace(_quotient(_chain("Sqrt", "Mean", "Square", "Sub"), "Sub"), None)


def _after_the_root() -> Trace:
    chain = _chain("Mean", "Square", "Sub")
    return _trace(_slope_of("Sqrt", 0.0, chain=chain, divides=True), None, 0.4)


def _feature() -> Trace:
    chain = _chain("Mean", "Square", "Sub")
    return _trace(_slope_of("Sqrt", 0.0, chain=chain), None, 0.4)


def _slope() -> Trace:
    return _trace(_slope_of("Rsqrt", 1e-30), 1e-30, 0.4)


def _amplified() -> Trace:
    return _trace(None, 1e-12, gradient_l2=(1e3, 1e-3, 1e-3), losses=(0.4, math.inf))


def _default() -> Trace:
    return _trace(None, 1e-3, gradient_l2=(1e3, 1e-3, 1e-3), losses=(0.4, math.inf))


def _healthy() -> Trace:
    return _trace(None, 1e-12, outcome="healthy", losses=(0.4, 0.3))


def _norm() -> Trace:
    return _trace(_quotient(_chain("Sqrt", "Sum", "Square"), "MatMul"), None)


def _in_loss() -> Trace:
    chain = _chain("Sqrt", "Mean", "Square", "Sub")
    return _trace(_quotient(chain, "Sub", phase="loss", layer="", layer_class=""), None)


def _half() -> Trace:
    return _trace(_event(), 1e-8, dtype="float16")


def _negative() -> Trace:
    return _trace(_event(inputs=([-0.2, 1.0],), input_values=(-0.2,)), 0.0)
