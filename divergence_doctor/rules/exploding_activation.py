"""Do activations grow from layer to layer, or from time step to time step, until they overflow?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, final

import numpy as np

from divergence_doctor.rules._growth import Growth, activation_growth, gains, weighted
from divergence_doctor.rules._producer import (
    bad_output,
    forward_fault,
    measured,
    primary_of,
)
from divergence_doctor.rules._rule import Evidence, Example, Finding, Proof, Rule
from divergence_doctor.rules._runaway import pace, ran_away
from divergence_doctor.rules._singular import GROWING, negligible
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.rules._producer import Producer
    from divergence_doctor.trace import Trace


@final
class ExplodingActivation(Rule):
    """Activations grow from layer to layer, or from one time step to the next, until they overflow.

    The first bad value of the step comes out of a sum or a product of finite numbers (a matrix
    product, a convolution, an addition, a square), and the outputs of the layers before it grow
    geometrically.

    Why it diverges: a layer whose weights have a gain g multiplies what passes by about g; n
    layers, or n time steps of a recurrent cell, by g**n. A gain of 11 (256 units, weights of
    standard deviation 1, ReLU) overflows float32 at layer 36; a recurrent cell with an unbounded
    activation and a gain of 1.4 after 260 time steps.

    Evidence: `activations/absmax` by layer in the order of execution, or by `call` of one layer:
    growth by 1e3 or more in all, 1.5 per layer (1.03 per time step) in the mean, over at least 3
    links, none of which holds more than 60 % of the decades: those figures lie above what variance-
    preserving initialisation (He et al. 2015) leaves in a healthy network. Also `events` (primary,
    op type) and the gain of the weights, rms * sqrt(fan in), from `weights`. Where activations of
    4.3e9 or more (the fourth root of float32's largest) leave the loss finite, the square of their
    gradient overflows in an adaptive optimizer, and the bad op is one of the update.

    Fix: `kernel_initializer="he_normal"`, for a recurrent cell
    `recurrent_initializer="orthogonal", activation="tanh"`; normalise between the layers,
    `keras.layers.LayerNormalization()`.

    Mistaken for: a learning rate that is too high: there the first replayed step is sane and the
    growth runs over the steps. Also for unscaled inputs: there it is large from the first layer on.

    Seen in: tensorflow/tensorflow#323 (initialiser with a standard deviation of 1),
    keras-team/keras#13221 (LSTM with relu over 1,019 time steps), fchollet/
    deep-learning-with-python-notebooks#52.
    """

    id = "exploding-activation"
    code = "DD402"
    needs = frozenset({"steps", "activations/absmax"})

    #: Overflow of a sum or a product at the end of a geometric growth.
    GROWN: ClassVar[float] = 0.88
    #: The cell overflowed after many calls, its outputs on the way are not on record.
    LATE_CALL: ClassVar[float] = 0.7
    #: An overflow with a heavy layer behind it, and no growth before it.
    HEAVY: ClassVar[float] = 0.45
    #: Too long steps drove the weights there, or half precision is the first suspect.
    DRIVEN: ClassVar[float] = 0.45
    #: The fourth root of float32's largest number.
    FOURTH_ROOT: ClassVar[float] = 4.3e9
    #: Calls of one layer within a step from which on one can speak of time.
    CALLS: ClassVar[int] = 5
    #: rms * sqrt(fan in) is 1.4 after He initialisation; at this it is no initialisation's.
    HEAVY_GAIN: ClassVar[float] = 100.0
    #: Twice the gain of He initialisation: layers of such weights are rescaled along with the rest.
    LARGE_GAIN: ClassVar[float] = 3.0
    #: Inputs beyond this are themselves worth scaling before the weights are.
    LARGE_INPUT: ClassVar[float] = 10.0

    def examine(self, trace: Trace) -> Finding | None:
        """Return the growth that ended in the overflow, or None."""
        producer = forward_fault(trace) or self._square_of_the_gradient(trace)
        if producer is None or not _overflowed(producer) or _in_half_alone(trace, producer):
            return None
        first = activation_growth(trace, 0) if producer.step > 0 else None
        growth = first or activation_growth(trace, producer.step)
        weights = gains(trace, 0 if first is not None else producer.step)
        if growth is not None:
            already = f" already in step {growth.step}" if growth.step < producer.step else ""
            how = f"grow {growth}{already}, starting at layer {growth.names[0]!r}"
            confidence = self.GROWN
            layers = growth.layers
        elif producer.phase == "forward" and _passes(producer) >= self.CALLS:
            confidence, layers = self.LATE_CALL, (producer.layer,)
            how = f"stay finite through {_passes(producer)} time steps of layer {producer.layer!r}"
        elif producer.phase == "forward" and weights.get(producer.layer, 0.0) >= self.HEAVY_GAIN:
            confidence, layers = self.HEAVY, (producer.layer,)
            how = f"pass a layer whose weights have a gain of {weights[producer.layer]:.3g}"
        else:
            return None
        if self._is_an_effect(trace, producer):
            confidence = min(confidence, self.DRIVEN)
        return Finding(
            cause=self.id,
            summary=f"Activations {how}, until {producer.op_type} {producer.place} overflows.",
            confidence=confidence,
            stage="forward",
            site=producer.site,
            evidence=(*_evidence(growth, weights, layers), bad_output(producer)),
            remedies=_remedies(growth, layers, along_time=_passes(producer) >= self.CALLS),
            proofs=self._proofs(trace, (*layers, producer.layer), weights),
        )

    def _square_of_the_gradient(self, trace: Trace) -> Producer | None:
        """Return what overflowed in the update, where activations made the gradient that large.

        An adaptive optimizer squares the gradient; the gradient of a squared error is itself of the
        order of the activations' square.
        """
        producer = primary_of(trace)
        after = producer is not None and producer.phase in {"clipping", "update"}
        if producer is None or not after or not producer.loss_finite:
            return None
        growth = activation_growth(trace, producer.step)
        return producer if growth is not None and growth.values[-1] >= self.FOURTH_ROOT else None

    def _is_an_effect(self, trace: Trace, producer: Producer) -> bool:
        if ran_away(trace):
            return True
        found = pace(trace)
        late = found is not None and found.ran_away and producer.step > 0
        return late and activation_growth(trace, 0) is None

    def _proofs(
        self, trace: Trace, layers: tuple[str, ...], weights: dict[str, float]
    ) -> tuple[Proof, ...]:
        large = [layer for layer, gain in weights.items() if gain >= self.LARGE_GAIN]
        found = [Proof("rescale-weights", {"layers": weighted((*layers, *large), weights)})]
        batch = trace.table("batch")
        inputs = batch.select(role="x")
        unscaled = inputs.where(inputs["absmax"] > self.LARGE_INPUT)
        if len(unscaled):
            names = sorted({str(name) for name in unscaled["name"]})
            found.append(Proof("standardise", {"arrays": names}))
        return tuple(found)

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return growth through depth, a heavy layer, and a growth that took two steps."""
        return (
            Example("36 layers that multiply by 11 each", _deep),
            Example("a cell that overflows at its 212th call", _late),
            Example("a single layer whose weights have a gain of 1e20", _heavy),
            Example("activations of 1e13, and a gradient whose square overflows", _squared),
            Example("an overflow of float16 that is one of float32 too", lambda: _half(wide=False)),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return healthy depth, an overflow without growth, and other producers."""
        return (
            Example("a healthy run", training_trace),
            Example("a squared error of a target of 1e30", _target),
            Example("a log of 0 in a deep network", _logarithm),
            Example("a deep network that grows and stays finite", _finite),
            Example("an overflow of float16 that float32 mends", lambda: _half(wide=True)),
        )


def _in_half_alone(trace: Trace, producer: Producer) -> bool:
    """Say whether the overflow is one of float16, which ends at 65504 and grows past it unseen.

    What rescaling the weights mends there says nothing: it mends a short range as well. It says
    something where the same step fails in float32 too.
    """
    if not any(operand.dtype == "float16" for operand in producer.operands):
        return False
    beside = trace.table("float32").select(step=producer.step)
    return not len(beside) or bool(beside["step_finite"].any())


def _passes(producer: Producer) -> int:
    """Return how many time steps lie before the op, or else how many calls of its layer."""
    return producer.time if producer.time >= 0 else producer.call


def _overflowed(producer: Producer) -> bool:
    if producer.op_type not in GROWING or not producer.inf + producer.nan:
        return False
    if producer.op_type in {"RealDiv", "Div"}:
        denominator = producer.input(1)
        if denominator is not None:
            return abs(denominator.nearest(0.0)) > negligible(denominator.dtype)
    if producer.op_type == "Pow":
        base, exponent = producer.input(0), producer.input(1)
        negative = exponent is not None and exponent.smallest() < 0
        fraction = base is not None and base.smallest() < 0 and not producer.inf
        return not negative and not fraction
    return all(operand.size > 0 for operand in producer.all("input"))


def _evidence(
    growth: Growth | None, weights: dict[str, float], layers: tuple[str, ...]
) -> tuple[Evidence, ...]:
    found = []
    if growth is not None:
        found += [
            measured(
                "largest activation where the growth starts", growth.values[0], "/activations"
            ),
            measured("largest activation at its end", growth.values[-1], "/activations/absmax"),
            measured(
                f"mean factor per link of the {growth.along}", growth.per_link, "/activations"
            ),
            measured("links of the growth", growth.links, "/activations"),
        ]
    known = [weights[layer] for layer in layers if layer in weights]
    if known:
        found.append(
            measured("median gain of those layers' weights", float(np.median(known)), "/weights/l2")
        )
    return tuple(found)


def _remedies(
    growth: Growth | None, layers: tuple[str, ...], *, along_time: bool
) -> tuple[str, ...]:
    first = layers[0]
    if along_time or (growth is not None and growth.along == "time"):
        return (
            (
                f"Give {first!r} a bounded activation and a kernel that preserves lengths: "
                '`activation="tanh", recurrent_initializer="orthogonal"`.'
            ),
            (
                "Use a gated cell, `keras.layers.LSTM` or `keras.layers.GRU` with its default "
                "activations, or shorter sequences."
            ),
        )
    return (
        (
            f'Initialise {first!r} and the layers after it with `kernel_initializer="he_normal"` '
            '(ReLU) or `"glorot_uniform"` (tanh).'
        ),
        (
            "Normalise between the layers: `keras.layers.LayerNormalization()` or "
            "`keras.layers.BatchNormalization()`; scale residual branches down by 1/sqrt(depth)."
        ),
    )


def _deep() -> Trace:
    layers = tuple(f"dense_{i}" for i in range(40))
    sizes = tuple(3.0 * 11.0**i if i < 36 else math.nan for i in range(40))
    event = SyntheticEvent(
        "MatMul",
        phase="forward",
        layer="dense_36",
        inputs=([1e38, 2e38], [[1.0], [2.0]]),
        outputs=([math.inf],),
    )
    return training_trace(
        losses=(math.nan,),
        layers=layers,
        activation_absmax=sizes,
        weight_l2=88.0,
        events=(event,),
    )


def _half(*, wide: bool) -> Trace:
    event = SyntheticEvent(
        "MatMul",
        phase="forward",
        layer="dense_4",
        inputs=([4e4, 4e4], [[11.0], [2.0]]),
        outputs=([math.inf],),
    )
    return training_trace(
        losses=(math.nan,),
        layers=tuple(f"dense_{i}" for i in range(8)),
        activation_absmax=tuple(3.0 * 11.0**i if i < 4 else math.nan for i in range(8)),
        weight_l2=88.0,
        dtype="float16",
        events=(event,),
        float32=(
            {
                "op_type": "MatMul",
                "role": "output",
                "value": math.inf,
                "float32": 4.4e5,
                "step_finite": wide,
            },
        ),
    )


def _squared() -> Trace:
    event = SyntheticEvent(
        "Square", phase="update", reaches="state", inputs=([1e26],), outputs=([math.inf],)
    )
    trace = training_trace(
        losses=(1e26,),
        outcome="diverged",
        layers=tuple(f"dense_{i}" for i in range(14)),
        activation_absmax=tuple(10.0**i for i in range(14)),
        events=(event,),
    )
    trace.table("steps")["loss_finite"][:] = True
    return trace


def _late() -> Trace:
    from divergence_doctor.trace import TraceBuilder

    trace = _deep()
    builder = TraceBuilder()
    cell = "rnn/simple_rnn_cell"
    for table in ("steps", "batch", "samples"):
        for row in trace.table(table).rows():
            builder.add(table, **row)
    builder.add("activations", step=0, order=0, layer=cell, call=0, role="output", absmax=1.0)
    event = next(trace.table("events").rows())
    builder.add("events", **{**event, "layer": cell, "call": 211})
    builder.describe(**trace.context)
    return builder.build()


def _heavy() -> Trace:
    event = SyntheticEvent(
        "MatMul",
        phase="forward",
        layer="dense",
        inputs=([1e20], [[1e20]]),
        outputs=([math.inf],),
    )
    return training_trace(
        losses=(math.inf,), activation_absmax=math.nan, weight_l2=1e20, events=(event,)
    )


def _target() -> Trace:
    event = SyntheticEvent("Square", inputs=([1e30],), outputs=([math.inf],))
    return training_trace(losses=(math.inf,), events=(event,))


def _logarithm() -> Trace:
    event = SyntheticEvent("Log", inputs=([0.0],), outputs=([-math.inf],))
    return training_trace(
        losses=(math.inf,),
        layers=tuple(f"dense_{i}" for i in range(12)),
        activation_absmax=tuple(3.0**i for i in range(12)),
        events=(event,),
    )


def _finite() -> Trace:
    return training_trace(
        layers=tuple(f"dense_{i}" for i in range(12)),
        activation_absmax=tuple(3.0**i for i in range(12)),
    )
