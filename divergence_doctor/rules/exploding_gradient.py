"""Do gradients grow on their way back, through depth or time, until they overflow or mislead?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, final

from divergence_doctor.rules._growth import (
    Growth,
    activation_growth,
    gains,
    gradient_growth,
    weighted,
)
from divergence_doctor.rules._overshoot import mildest
from divergence_doctor.rules._producer import (
    bad_output,
    derivative_fault,
    figure,
    measured,
    producer_of,
)
from divergence_doctor.rules._rule import Evidence, Example, Finding, Proof, Rule, Site
from divergence_doctor.rules._runaway import LARGE_RATIO, Pace, pace, ran_away
from divergence_doctor.rules._singular import derivative_singularity
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.rules._producer import Producer
    from divergence_doctor.trace import Trace


@final
class ExplodingGradient(Rule):
    """Gradients grow from layer to layer on their way back, or from time step to time step.

    The loss is finite. What comes back to the layers grows geometrically from the output to the
    input, until a product in the backward pass overflows, or until the step that it causes throws
    the weights far away although the learning rate is an ordinary one.

    Why it diverges: every layer multiplies the gradient by the transpose of its weights. With
    singular values above 1 it grows like g**n through n layers or time steps, also where bounded
    activations or normalisation keep the forward pass in check. One update then replaces the
    weights by the gradient.

    Evidence: `gradients/l2` of what came back to each layer's output (or to each `call` of a cell):
    growth by 1e3 or more in all, 1.5 per layer (1.03 per time step) in the mean, over at least 3
    links, none of which holds more than 60 % of the decades. Either `events` (primary, in the
    backward pass, of an op that is smooth there), or `updates/ratio` of at least 0.1 in the first
    steps at a learning rate of at most 10 times Keras' default.

    Proven by what takes the growth away at its layers (an orthogonal recurrent kernel, kernels of
    the initialiser's scale); the mildest clipping of the norm that mends the step is searched for
    among 0.1 to 100 (5 among them) and counts for less: it mends nearly everything.

    Fix: `keras.optimizers.Adam(global_clipnorm=1.0)` bounds the step;
    `recurrent_initializer="orthogonal"`, `kernel_initializer="he_normal"`, LSTM or GRU in place of
    a plain RNN, and normalisation between the layers take the growth away.

    Mistaken for: a learning rate that is too high: there the gradients are ordinary and the step is
    long. And for an infinite slope at one point (`gradient-singularity`): there a single op makes
    the jump, and clipping does not help.

    Seen in: keras-team/keras#2194 (recurrent nets whose loss turns NaN the sooner, the more layers
    there are), AlexanderVNikitin/tsgm#59.
    """

    id = "exploding-gradient"
    code = "DD401"
    #: Weights thrown away by such a gradient overflow the next forward pass.
    explains = frozenset({"exploding-activation", "exp-overflow"})
    needs = frozenset({"steps", "gradients/l2"})

    #: A backward product overflowed at the end of a geometric growth.
    OVERFLOWED: ClassVar[float] = 0.88
    #: The growth is there, and the step that it made is too long at an ordinary rate.
    USELESS: ClassVar[float] = 0.75
    #: A backward product overflowed; no growth through layers is on record.
    NO_GROWTH: ClassVar[float] = 0.45
    #: The learning rate is not ordinary, or half precision is the first suspect.
    DOUBTFUL: ClassVar[float] = 0.45
    #: sqrt of float32's largest: beyond it the norm to clip by is itself infinite, and clipping
    #: gives 0 * inf.
    CLIPPABLE: ClassVar[float] = 1.8e19
    #: Norms to clip at, half a decade apart around the customary 1 and 5 (Pascanu et al. 2013 and
    #: Keras' examples); the largest that mends is searched for.
    NORMS: ClassVar[tuple[float, ...]] = (0.1, 0.5, 1.0, 5.0, 10.0, 50.0, 100.0)

    def examine(self, trace: Trace) -> Finding | None:
        """Return the growth of the gradients that broke the step, or None."""
        if trace.outcome == "healthy" or trace.failing_step is None:
            return None
        producer = derivative_fault(trace)
        if producer is not None:
            return self._overflow(trace, producer)
        return self._useless(trace)

    def _overflow(self, trace: Trace, producer: Producer) -> Finding | None:
        smooth = not producer.dead_branch and derivative_singularity(producer) is None
        inputs_finite = not any(operand.nonfinite for operand in producer.all("input"))
        if not (smooth and inputs_finite and producer.loss_finite):
            return None
        if producer.op_type in _OWN_RULES:
            return None
        first = gradient_growth(trace, 0) if producer.step > 0 else None
        growth = first or gradient_growth(trace, producer.step)
        if growth is None and ran_away(trace):
            return None
        already = f" in step {growth.step}" if growth and growth.step < producer.step else ""
        how = (
            f"grow {growth} on the way back{already}, {_from(growth)}, and overflow"
            if growth is not None
            else "overflow on the way back"
        )
        of = "the derivative of " if producer.derivative else ""
        return Finding(
            cause=self.id,
            summary=f"The loss is finite; the gradients {how} in {of}{producer.op_type} "
            f"{producer.place}.",
            confidence=self._sure(trace, growth, producer),
            stage="backward",
            site=producer.site,
            evidence=(*_growth_evidence(growth), bad_output(producer), *_clipping(trace)),
            remedies=_remedies(trace, growth),
            proofs=self._proofs(trace, growth),
        )

    def _sure(self, trace: Trace, growth: Growth | None, producer: Producer) -> float:
        if growth is None:
            return self.NO_GROWTH
        found = pace(trace)
        half = any(operand.dtype == "float16" for operand in producer.operands)
        extraordinary = found is not None and producer.step > 0 and not found.ordinary
        return self.DOUBTFUL if half or extraordinary else self.OVERFLOWED

    def _useless(self, trace: Trace) -> Finding | None:
        """Return the growth seen at the first step that made the update far too long."""
        found = pace(trace)
        growth = gradient_growth(trace, 0)
        if found is None or growth is None or activation_growth(trace, 0) is not None:
            return None
        if not _first_loss_finite(trace) or not found.ratio >= LARGE_RATIO:
            return None
        producer = producer_of(trace)
        failing = trace.failing_step or 0
        if failing == 0 and producer is not None:
            return None
        site = producer.site if producer is not None else Site(failing, layer=growth.names[-1])
        kind = "an ordinary one" if found.ordinary else "not ordinary either"
        return Finding(
            cause=self.id,
            summary=f"At a finite loss of {figure(found.first_loss)} the gradients grow {growth} "
            f"on the way back, {_from(growth)}, and the update is {figure(found.ratio)} times as "
            "long as the weights although the learning rate of "
            f"{figure(found.learning_rate)} is {kind}.",
            confidence=self.USELESS if found.ordinary else self.DOUBTFUL,
            stage="backward",
            site=site,
            evidence=(*_growth_evidence(growth), *_pace_evidence(found), *_clipping(trace)),
            remedies=_remedies(trace, growth),
            proofs=self._proofs(trace, growth),
        )

    def _proofs(self, trace: Trace, growth: Growth | None) -> tuple[Proof, ...]:
        found = []
        if growth is not None:
            layers = weighted(growth.layers, gains(trace, 0))
            if growth.along == "time":
                found.append(Proof("orthogonal-recurrent", {"layers": list(growth.layers)}))
            found.append(Proof("rescale-weights", {"layers": layers}))
        if growth is None or growth.values[-1] < self.CLIPPABLE:
            found.append(Proof("clip-gradients", {"norms": list(self.NORMS)}))
        return tuple(found)

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return an overflow on the way back, and a gradient that throws the weights away."""
        return (
            Example("30 layers that multiply the gradient by 20 each, until it overflows", _deep),
            Example("a finite gradient that grew 1e7 times and replaces the weights", _thrown),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return ordinary gradients, singular slopes, and forward failures."""
        return (
            Example("a healthy run", training_trace),
            Example("a deep healthy run whose gradients grow, and whose steps are short", _healthy),
            Example("a learning rate that is too high, with ordinary gradients", _rate),
            Example("the derivative of sqrt at 0", _slope),
        )


#: Derivatives that turn non-finite for reasons of their own, which other rules know.
_OWN_RULES = frozenset(
    {
        *("Softmax", "LogSoftmax", "SoftmaxCrossEntropyWithLogits"),
        *("SparseSoftmaxCrossEntropyWithLogits", "FusedBatchNorm", "FusedBatchNormV3"),
    }
)


def _first_loss_finite(trace: Trace) -> bool:
    steps = trace.table("steps").select(step=0)
    return bool(len(steps) and steps["loss_finite"][0])


def _from(growth: Growth) -> str:
    """Return where the growth starts, seen from the loss."""
    if growth.along == "time":
        at = f" at time step {growth.times[0]}" if growth.times else ""
        return f"starting in layer {growth.names[0]!r}{at}"
    return f"starting at layer {growth.names[0]!r}"


def _clipping(trace: Trace) -> tuple[Evidence, ...]:
    norms = mildest(trace, "clip-gradients")
    if norms is None:
        return ()
    return (
        measured("largest global norm whose clipping mends the step", norms[0], "/attempts/value"),
    )


def _growth_evidence(growth: Growth | None) -> tuple[Evidence, ...]:
    if growth is None:
        return ()
    return (
        measured("L2 of the gradient nearest the loss", growth.values[0], "/gradients/l2"),
        measured("L2 of the gradient where it is largest", growth.values[-1], "/gradients/l2"),
        measured(f"mean factor per link of the {growth.along}", growth.per_link, "/gradients/l2"),
        measured("links of the growth", growth.links, "/gradients"),
    )


def _pace_evidence(found: Pace) -> tuple[Evidence, ...]:
    return (
        measured("update over weight in the first steps", found.ratio, "/updates/ratio"),
        measured("learning rate", found.learning_rate, "/steps/learning_rate"),
        measured("Keras' default for this optimizer", found.default_rate, "keras.optimizers"),
    )


def _remedies(trace: Trace, growth: Growth | None) -> tuple[str, ...]:
    norms = mildest(trace, "clip-gradients")
    found = pace(trace)
    optimizer = found.optimizer if found is not None and found.optimizer else "Adam"
    clip = "Bound the step by the norm of all gradients together: "
    if norms is None:
        clip += (
            f"`keras.optimizers.{optimizer}(global_clipnorm=1.0)` (5.0 where 1.0 slows it down)."
        )
    else:
        clip += (
            f"`keras.optimizers.{optimizer}(global_clipnorm={norms[0]:g})` is the mildest clipping "
            "with which the same steps live; it hides the growth."
        )
    if growth is not None and growth.along == "time":
        return (
            (
                f'Give {growth.names[0]!r} `recurrent_initializer="orthogonal"`, or use '
                "`keras.layers.LSTM` or `keras.layers.GRU`."
            ),
            clip,
            "Cut the sequences shorter (truncated back-propagation through time).",
        )
    return (
        (
            'Initialise the layers with `kernel_initializer="he_normal"` (ReLU) or '
            '`"glorot_uniform"` (tanh), and normalise between them: '
            "`keras.layers.LayerNormalization()`."
        ),
        clip,
    )


def _deep() -> Trace:
    layers = tuple(f"dense_{i}" for i in range(33))
    grown = tuple(1e-3 * 20.0 ** (32 - i) if i > 2 else math.nan for i in range(33))
    event = SyntheticEvent(
        "MatMul",
        phase="backward",
        derivative=True,
        reaches="gradient",
        layer="dense_2",
        inputs=([[0.5]], [[30.0]]),
        outputs=([15.0],),
    )
    return training_trace(
        losses=(0.7,), outcome="diverged", layers=layers, gradient_l2=grown, events=(event,)
    )


def _thrown() -> Trace:
    layers = tuple(f"dense_{i}" for i in range(12))
    grown = tuple(0.1 * 4.3 ** (11 - i) for i in range(12))
    event = SyntheticEvent(
        "MatMul", phase="forward", layer="dense_3", inputs=([1e30], [[1e10]]), outputs=([math.inf],)
    )
    return training_trace(
        losses=(0.7, math.nan),
        layers=layers,
        gradient_l2=grown,
        update_ratio=1e4,
        optimizer="SGD",
        learning_rate=0.01,
        events=(event,),
    )


def _healthy() -> Trace:
    layers = tuple(f"dense_{i}" for i in range(12))
    return training_trace(
        layers=layers, gradient_l2=tuple(1e-6 * 4.0 ** (11 - i) for i in range(12))
    )


def _rate() -> Trace:
    return training_trace(
        losses=(2.3, 9e3, math.inf), learning_rate=1.0, optimizer="SGD", update_ratio=5.0
    )


def _slope() -> Trace:
    event = SyntheticEvent(
        "Sqrt", phase="backward", derivative=True, reaches="gradient", inputs=([0.0],)
    )
    return training_trace(losses=(0.3,), outcome="diverged", events=(event,))
