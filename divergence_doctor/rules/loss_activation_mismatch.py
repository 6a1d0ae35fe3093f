"""Does the loss take numbers that the last layer's activation does not keep inside its domain?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.rules._links import MOVES, Link, links_of
from divergence_doctor.rules._producer import (
    bad_output,
    figure,
    forward_fault,
    left_out,
    measured,
    primary_of,
)
from divergence_doctor.rules._rule import Evidence, Example, Finding, Proof, Rule, Site
from divergence_doctor.rules._singular import DIVISIONS, DOMAINS, LOGARITHMS, negligible
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.rules._producer import Operand, Producer
    from divergence_doctor.trace import Trace

#: What an activation can put out, by the op that it ends in: below 0, or exactly 0. Of the others
#: (sigmoid, softmax, softplus, exp) a 0 is what rounding left of a positive number.
_BELOW_ZERO: Final = {
    "Tanh": "tanh",
    "Softsign": "softsign",
    "Elu": "elu",
    "Selu": "selu",
    "LeakyRelu": "leaky_relu",
    **dict.fromkeys(("MatMul", "_FusedMatMul", "BatchMatMulV2", "BatchMatMulV3"), "linear"),
    **dict.fromkeys(("Einsum", "BiasAdd", "Add", "AddV2", "Sub"), "linear"),
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D", "Conv2DBackpropInput"), "linear"),
    **dict.fromkeys(("Conv3DBackpropInputV2", "DepthwiseConv2dNative"), "linear"),
    **dict.fromkeys(("FusedBatchNormV3", "FusedBatchNorm", "Mean"), "linear"),
}
_NEVER_BELOW_ZERO: Final = {"Relu": "relu", "Relu6": "relu6"}
#: Activations of several ops, by the name that the layer gives them.
_BY_NAME: Final = frozenset({"gelu", "silu", "swish", "mish", "hard_tanh", "celu", "tanh_shrink"})

#: Ops that hand on one of their inputs.
_SELECTING: Final = frozenset({"SelectV2", "Select", "Maximum", "Minimum", "ClipByValue"})
#: A shift that only guards (an epsilon), and the shifts that turn p into 1 - p or 1 + p.
_GUARD: Final = 1e-3
_WHOLE: Final = 1.0
#: Rounding of a sum of numbers around 1 in float32, with room for half precision's guards.
_ROUNDING: Final = 1e-5

#: What the first bad op of such a loss looks like by itself, and a run that such a loss drove off.
_EFFECTS: Final = frozenset(
    {"log-of-zero", "division-by-zero", "invalid-domain", "gradient-singularity"}
)
_GROWTH: Final = frozenset({"exploding-gradient", "high-learning-rate"})

#: Keras' losses that take a probability or a rate, and the activation that makes one.
_TAKES: Final = {
    "BinaryCrossentropy": "sigmoid",
    "BinaryFocalCrossentropy": "sigmoid",
    "CategoricalCrossentropy": "softmax",
    "CategoricalFocalCrossentropy": "softmax",
    "SparseCategoricalCrossentropy": "softmax",
    "KLDivergence": "softmax",
    "Poisson": "softplus",
}
_UNBOUNDED: Final = frozenset(
    {"linear", "relu", "tanh", "elu", "selu", "leaky_relu", "leakyrelu", "gelu", "silu", "swish"}
)


@final
@dataclass(frozen=True, slots=True)
class _Output:
    """A layer's output that the loss took outside its domain.

    Attributes:
        link: the layer's last op on the way.
        activation: what the layer ends in.
        value: what it put out at the bad element.
        turned: the loss took 1 minus it.
    """

    link: Link
    activation: str
    value: float
    turned: bool


@final
class LossActivationMismatch(Rule):
    """The loss is not made for what the last layer puts out.

    The logarithm or the division in the loss that went bad was given the output of a layer as it
    is, and the activation of that layer does not keep it inside: a linear or tanh output below 0
    into a logarithm, a ReLU's 0 into a logarithm or below the line.

    Why it diverges: a probability, a rate, a variance or a scale is positive by its meaning, but
    nothing in the model says so. A linear, tanh or leaky output is negative for about every second
    sample at the start, and the logarithm of that is NaN; a ReLU is exactly 0 wherever its unit is
    not active, and log(0) and x/0 are infinite. It fails in the first steps, or as soon as one
    unit falls silent.

    Evidence: the first bad op of the step ran in the loss (or in a layer that adds one: what came
    of it ends there as a scalar), and its operand is followed back (`chain`) through ops that hand
    it on, an epsilon of at most 1e-3 or a 1 - p, to the last op of a layer. What that op can put
    out is a fact of the activation: below 0 for linear, tanh, softsign, elu, selu, leaky_relu;
    exactly 0, and not by rounding, for relu. A sigmoid, softmax, softplus or exp that has reached 0
    has saturated (`log-of-zero`). Without such an op: a built-in loss for probabilities (`targets`)
    on an output of an unbounded activation and without from_logits, which has to be proven by a
    trial.

    Fix: end in what the loss is made for: `Dense(1, activation="softplus")` (or `"exponential"`)
    for a rate, a scale or a variance, `activation="sigmoid"` or `"softmax"` for probabilities; or
    keep the linear layer and let the loss take logits,
    `keras.losses.CategoricalCrossentropy(from_logits=True)`.

    Mistaken for: `log-of-zero`. An epsilon in the logarithm does not help against a negative
    number, and clipping gives the samples that are wrong no gradient. Labels or inputs that are
    negative are another matter (`bad-labels`).

    Seen in: pkmital/tensorflow_tutorials#23 (log of a tanh decoder), keras-team/keras#590 (Poisson
    loss on a linear output), tensorflow/probability#474 (a scale out of a ReLU).
    """

    id = "loss-activation-mismatch"
    code = "DD206"
    needs = frozenset({"steps"})

    #: The op, the layer it was fed by and the number that its activation let through are on record.
    SEEN: ClassVar[float] = 0.95
    #: A root of a negative output: whether it should be positive by its meaning is not on record.
    ROOT: ClassVar[float] = 0.55
    #: In half precision a 0 may be a rounded number: the precision is a suspect.
    LOW_PRECISION: ClassVar[float] = 0.7
    #: The same, and it was the arithmetic of that loss that went bad.
    OWN: ClassVar[float] = 0.85
    #: The loss and the activation do not go together; that this run died of it is for the trial.
    UNPROVEN: ClassVar[float] = 0.45

    def examine(self, trace: Trace) -> Finding | None:
        """Return the output that the loss cannot take, or None."""
        producer = forward_fault(trace)
        if producer is not None and _in_a_loss(trace, producer):
            operand = _dangerous(producer)
            found = None if operand is None else _output(trace, producer, operand)
            if operand is not None and found is not None:
                return self._seen(producer, operand, found)
        return self._by_design(trace)

    def _seen(self, producer: Producer, operand: Operand, found: _Output) -> Finding:
        root = producer.op_type in DOMAINS
        confidence = self.ROOT if root else self.SEEN
        if operand.low_precision and found.value == 0:
            confidence = min(confidence, self.LOW_PRECISION)
        through = "sigmoid" if found.turned or found.activation == "tanh" else "softplus"
        return Finding(
            cause=self.id,
            summary=_sentence(producer, operand, found),
            confidence=confidence,
            stage="loss",
            site=producer.site,
            samples=producer.blamed,
            evidence=(
                measured(
                    f"output of layer {found.link.layer!r} ({found.activation}) at the first bad "
                    "element",
                    found.value,
                    "/chain/value",
                ),
                measured(
                    f"what {producer.op_type} was given there", operand.nearest(0.0), "/operands"
                ),
                measured("negatives among it", operand.negative, "/operands/negative"),
                measured("zeros among it", operand.zero, "/operands/zero"),
                bad_output(producer),
            ),
            remedies=_remedies(through, found),
            proofs=(
                Proof(
                    "output-activation",
                    {
                        "layer": found.link.layer,
                        "op_type": found.link.name,
                        "source": found.link.source,
                        "through": ["sigmoid", "softplus"]
                        if through == "sigmoid"
                        else ["softplus", "sigmoid"],
                    },
                ),
                *left_out(producer),
            ),
            explains=frozenset() if root else _EFFECTS,
        )

    def _by_design(self, trace: Trace) -> Finding | None:
        """Return a built-in loss on an output that it is not made for, to be proven."""
        if trace.outcome != "diverged":
            return None
        for row in trace.table("targets").rows():
            through = _TAKES.get(row["loss"]) if row["builtin"] else None
            if through is None or row["from_logits"] or row["activation"] not in _UNBOUNDED:
                continue
            layer = _last_layer(trace, row["output"], row["activation"])
            if layer is None:
                continue
            own = _in_the_loss_itself(trace)
            return Finding(
                cause=self.id,
                summary=(
                    f"{row['loss']} without from_logits takes the output of layer {layer!r}, which "
                    f"ends in {row['activation']} and is no {_MEANING[through]}."
                ),
                confidence=self.OWN if own is not None else self.UNPROVEN,
                stage="loss",
                site=_site(trace),
                evidence=(
                    Evidence("activation of the output", row["activation"], "/targets/activation"),
                    Evidence("loss", row["loss"], "/targets/loss"),
                    Evidence("from_logits", bool(row["from_logits"]), "/targets/from_logits"),
                ),
                remedies=_REMEDIES[through],
                proofs=(Proof("output-activation", {"layer": layer, "through": [through]}),),
                samples=own.blamed if own is not None else (),
                explains=_EFFECTS if own is not None else _GROWTH,
            )
        return None

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return outputs of every kind that a loss cannot take."""
        return (
            Example("the log of a tanh output below 0", _tanh),
            Example("a Poisson loss on a linear rate below 0, past its epsilon", _rate),
            Example("a scale of exactly 0 out of a ReLU, sliced out of the output", _scale),
            Example("the log of 1 - p of a linear output above 1", _complement),
            Example("a division by the 0 of a ReLU", _divided),
            Example("the log of a linear variance in a layer that adds a loss", _added),
            Example("the root of a linear width below 0, told with less confidence", _width),
            Example("a run that diverged on raw scores fed as probabilities", _raw),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return logarithms and divisions that another cause stands behind."""
        return (
            Example("a healthy run on raw scores fed as probabilities", _healthy),
            Example("a sigmoid that has reached 0", _saturated),
            Example("a softplus that has underflowed", _underflowed),
            Example("a label below 0", _label),
            Example("the difference of label and output", _difference),
            Example("the sum of a count and a ReLU's zeros below the line", _empty_dice),
            Example("a logarithm inside a layer whose result goes on", _inside),
            Example("the slope of a root at the 0 of a ReLU", _slope),
        )


# ---------------------------------------------------------------------- the way back


def _dangerous(producer: Producer) -> Operand | None:
    """Return the operand that lies outside the op's domain, if it is a log, a root, a quotient."""
    kind = producer.op_type
    if kind in LOGARITHMS:
        position, edge = LOGARITHMS[kind]
        operand = producer.input(position)
        return operand if operand is not None and operand.smallest() <= edge else None
    if kind in {"Sqrt", "Rsqrt"}:
        operand = producer.input(0)
        if operand is not None and operand.smallest() < 0:
            return operand
    if kind in DIVISIONS:
        operand = producer.input(DIVISIONS[kind])
        small = operand is not None and abs(operand.nearest(0.0)) <= negligible(operand.dtype)
        return operand if small else None
    return None


def _in_a_loss(trace: Trace, producer: Producer) -> bool:
    """Say whether an op ran in the loss, or in a layer that adds one: it ends there as a scalar."""
    if producer.phase != "forward" or not producer.layer:
        return producer.phase == "loss"
    rows = trace.table("events").select(step=producer.step, derivative=False, phase="forward")
    later = rows.where(rows["op"] > producer.op)
    if not len(later) or set(later["layer"].tolist()) != {producer.layer}:
        return False
    last = max(later.rows(), key=lambda row: int(row["op"]))
    return bool(last["element"] == "")


def _output(trace: Trace, producer: Producer, operand: Operand) -> _Output | None:
    """Return the layer's output that the operand is, seen through what only hands it on."""
    edge = LOGARITHMS.get(producer.op_type, (0, 0.0))[1]
    value, turned = operand.nearest(edge), False
    links = links_of(trace, producer) or _from_operand(operand, value)
    previous = beside = ""
    for link in links:
        if link.what != "op" or not math.isfinite(link.value):
            return None
        if previous and previous not in MOVES:
            squared = previous == "Square" or beside == link.name
            nothing = squared and value == link.value == 0
            handed = False if nothing else _handed_on(previous, value, link.value, edge)
            if handed is None:
                return None
            turned ^= handed
        value, previous, beside = link.value, link.name, link.beside
        outside = link.layer and link.layer != producer.layer and link.phase == "forward"
        if outside and link.name not in MOVES:
            return _judged(trace, link, turned=turned)
    return None


def _from_operand(operand: Operand, value: float) -> tuple[Link, ...]:
    """Return the one link that the operand itself tells, where no chain was walked."""
    if operand.origin != "op" or not operand.origin_layer:
        return ()
    made = operand.origin_name, operand.origin_layer
    return (Link("op", *made, "forward", "", value, operand.size),)


def _handed_on(kind: str, result: float, operand: float, edge: float) -> bool | None:
    """Say whether an op of the loss handed a number on (False), as 1 minus it (True), or neither.

    Of a product or quotient below 0 one side is negative: the one that is. `log1p(-p)` is the log
    of 1 - p.
    """
    if kind == "Neg":
        return True if edge < 0 else None
    if kind in {"Add", "AddV2", "Sub"}:
        return _shifted(kind, result, operand)
    if kind in _SELECTING:
        return False if result == operand else None
    signed = kind in {"Mul", "RealDiv", "Xdivy", "DivNoNan"} and result < 0
    return False if signed and operand < 0 else None


def _shifted(kind: str, result: float, operand: float) -> bool | None:
    """Say so of a sum: with an epsilon or 1 the number is handed on, and 1 - p turns it.

    A guard added to a number that ends as exactly 0 did not guard; then something else was added.
    """
    room = _ROUNDING * max(1.0, abs(operand))
    shift = result - operand
    if result == 0:
        return None
    if abs(shift) <= _GUARD or abs(abs(shift) - _WHOLE) <= room:
        return False
    turned = kind == "Sub" and abs(result - (_WHOLE - operand)) <= _GUARD + room
    return True if turned else None


def _judged(trace: Trace, link: Link, *, turned: bool) -> _Output | None:
    """Return the layer's output where its activation does put out such a number by itself."""
    value = link.value
    activation = _activation(trace, link)
    if activation is None:
        return None
    if turned:
        return _Output(link, activation, value, turned) if value > 1 else None
    silent = value == 0 and link.name in _NEVER_BELOW_ZERO
    return _Output(link, activation, value, turned) if value < 0 or silent else None


def _activation(trace: Trace, link: Link) -> str | None:
    known = {**_BELOW_ZERO, **_NEVER_BELOW_ZERO}
    layers = trace.table("layers").select(layer=link.layer)
    named = str(layers["activation"][0]) if len(layers) else ""
    if link.name in known and named not in _BY_NAME:
        return known[link.name]
    return named if named in _BY_NAME else None


def _in_the_loss_itself(trace: Trace) -> Producer | None:
    """Return the first bad op where it is one of the built-in loss's own: no user's line ran it."""
    producer = forward_fault(trace)
    own = producer is not None and producer.phase == "loss" and not producer.source
    return producer if own else None


def _last_layer(trace: Trace, output: str, activation: str) -> str | None:
    """Return the layer that makes an output: the one of that name, or the last of that kind."""
    rows = trace.table("layers").select(activation=activation)
    if not len(rows):
        return None
    named = rows.select(layer=output)
    return str((named if len(named) else rows)["layer"][-1])


def _site(trace: Trace) -> Site:
    producer = primary_of(trace)
    return producer.site if producer is not None else Site(step=trace.failing_step or 0)


# ---------------------------------------------------------------------- what is said

_MEANING: Final = {"sigmoid": "probability", "softmax": "distribution", "softplus": "rate"}


def _sentence(producer: Producer, operand: Operand, found: _Output) -> str:
    what = "1 - p of it" if found.turned else "it"
    given = figure(operand.nearest(0.0))
    return (
        f"{producer.op_type} {producer.place} takes {what}, but layer {found.link.layer!r} ends in "
        f"{found.activation} and put out {figure(found.value)}, so that {producer.op_type} was "
        f"given {given}{producer.whom}."
    )


_REMEDIES: Final = {
    "softplus": (
        (
            "End in an activation that is positive: `keras.layers.Dense(..., "
            'activation="softplus")` or `"exponential"`; for a scale or a variance add a floor, '
            "`tf.math.softplus(raw) + 1e-3`."
        ),
        (
            "Or let the layer stay linear and have it predict the logarithm: use `tf.exp(log_rate)`"
            ", `log_var` in place of `tf.math.log(var)`, and "
            "`tf.nn.log_poisson_loss(targets, log_rate)` for counts."
        ),
    ),
    "sigmoid": (
        (
            'End in a probability: `keras.layers.Dense(..., activation="sigmoid")` (targets in '
            "0..1)."
        ),
        (
            "Or keep the layer linear and let the loss take logits: "
            "`keras.losses.BinaryCrossentropy(from_logits=True)`."
        ),
    ),
    "softmax": (
        'End in a distribution: `keras.layers.Dense(classes, activation="softmax")`.',
        (
            "Or keep the layer linear and let the loss take logits: "
            "`keras.losses.CategoricalCrossentropy(from_logits=True)` or "
            "`keras.losses.SparseCategoricalCrossentropy(from_logits=True)`."
        ),
    ),
}


def _remedies(through: str, found: _Output) -> tuple[str, ...]:
    if through == "softplus" and found.activation in {"relu", "relu6"}:
        return (*_REMEDIES["softplus"], *_REMEDIES["softmax"][:1])
    return _REMEDIES[through]


# ---------------------------------------------------------------------- examples


def _link(name: str, value: float, layer: str = "dense_1", **fields: Any) -> dict[str, Any]:
    return {"name": name, "layer": layer, "value": value, **fields}


def _in_loss(name: str, value: float) -> dict[str, Any]:
    return _link(name, value, "", phase="loss")


def _lost(event: SyntheticEvent, **fields: Any) -> Trace:
    return training_trace(losses=(math.nan,), events=(event,), **fields)


def _log(value: float, *chain: dict[str, Any]) -> SyntheticEvent:
    return SyntheticEvent("Log", inputs=([value, 0.9],), input_values=(value,), chain=chain)


def _tanh() -> Trace:
    return _lost(_log(-0.4, _link("Tanh", -0.4)), activation="tanh")


def _rate() -> Trace:
    chain = (_in_loss("AddV2", -0.1105998), _link("AddV2", -0.1105999), _link("MatMul", -0.1))
    return _lost(_log(-0.1105998, *chain), loss_name="Poisson")


def _scale() -> Trace:
    chain = (
        _in_loss("StridedSlice", 0.0),
        _link("ConcatV2", 0.0, "both"),
        _link("Relu", 0.0, "scale"),
    )
    return _lost(_log(0.0, *chain))


def _complement() -> Trace:
    return _lost(_log(-0.5, _in_loss("Sub", -0.5), _link("BiasAdd", 1.5)))


def _divided() -> Trace:
    event = SyntheticEvent(
        "RealDiv", inputs=([0.3], [0.0]), input_values=(0.3, 0.0), chain=(_link("Relu", 0.0),)
    )
    return _lost(event)


def _width() -> Trace:
    event = SyntheticEvent(
        "Sqrt",
        inputs=([-0.1, 0.4],),
        input_values=(-0.1,),
        chain=(_in_loss("StridedSlice", -0.1), _link("BiasAdd", -0.1)),
    )
    return _lost(event)


def _raw() -> Trace:
    return training_trace(losses=(4.0, math.nan), loss_name="CategoricalCrossentropy")


def _healthy() -> Trace:
    return training_trace(loss_name="CategoricalCrossentropy")


def _saturated() -> Trace:
    return _lost(_log(0.0, _link("Sigmoid", 0.0)), activation="sigmoid")


def _underflowed() -> Trace:
    event = SyntheticEvent(
        "RealDiv", inputs=([1.0], [0.0]), input_values=(1.0, 0.0), chain=(_link("Softplus", 0.0),)
    )
    return _lost(event, activation="softplus")


def _label() -> Trace:
    label = {"what": "batch", "name": "y", "layer": "", "value": -1.0}
    return _lost(_log(-1.0, label))


def _difference() -> Trace:
    return _lost(_log(-0.7, _in_loss("Sub", -0.7), _link("BiasAdd", -0.2)))


def _empty_dice() -> Trace:
    event = SyntheticEvent(
        "RealDiv",
        inputs=([0.0], [0.0]),
        input_values=(0.0, 0.0),
        chain=(_in_loss("AddV2", 0.0), _in_loss("Sum", 0.0), _link("Relu", 0.0)),
    )
    return _lost(event)


def _inside() -> Trace:
    return _in_layer(SyntheticEvent("Mul", phase="forward", layer="kl", **_CARRIED))


def _added() -> Trace:
    return _in_layer(SyntheticEvent("Mean", phase="forward", layer="kl", element="", **_CARRIED))


_CARRIED: Final[dict[str, Any]] = {"produced": False, "primary": False, "origin_name": "Log"}


def _in_layer(then: SyntheticEvent) -> Trace:
    event = SyntheticEvent(
        "Log",
        phase="forward",
        layer="kl",
        inputs=([-0.3, 0.2],),
        input_values=(-0.3,),
        chain=(_link("BiasAdd", -0.3, "variance"),),
    )
    return training_trace(losses=(math.nan,), events=(event, then))


def _slope() -> Trace:
    event = SyntheticEvent(
        "Sqrt",
        phase="backward",
        derivative=True,
        reaches="gradient",
        inputs=([0.0],),
        chain=(_link("Relu", 0.0),),
    )
    return training_trace(losses=(0.3,), outcome="diverged", events=(event,))
