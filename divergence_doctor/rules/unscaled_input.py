"""Are the inputs or targets so large, or one sample so far out, that the step overshoots?"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.rules import _batch
from divergence_doctor.rules._links import links_of
from divergence_doctor.rules._producer import forward_fault
from divergence_doctor.rules._rule import Evidence, Example, Finding, Proof, Rule
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from divergence_doctor.trace import Trace

_NORMALISERS: Final = frozenset(
    {
        "BatchNormalization",
        "Discretization",
        "GroupNormalization",
        "Hashing",
        "LayerNormalization",
        "Normalization",
        "RMSNormalization",
        "Rescaling",
        "UnitNormalization",
    }
)

#: Losses whose targets are classes, probabilities, counts or ratios: scaling those would change
#: their meaning, and ``bad-labels`` knows their domains.
_OWN_SCALE: Final = frozenset(
    {
        "BinaryCrossentropy",
        "BinaryFocalCrossentropy",
        "CTC",
        "CategoricalCrossentropy",
        "CategoricalFocalCrossentropy",
        "CategoricalGeneralizedCrossEntropy",
        "CategoricalHinge",
        "Circle",
        "CosineSimilarity",
        "Dice",
        "Hinge",
        "KLDivergence",
        "MeanAbsolutePercentageError",
        "MeanSquaredLogarithmicError",
        "Poisson",
        "SparseCategoricalCrossentropy",
        "SquaredHinge",
        "Tversky",
    }
)

#: Ops that turn small finite numbers into NaN or Inf. What they do to ordinary numbers is no
#: overflow, and no scaling of the inputs is to blame.
_SINGULAR: Final = frozenset(
    {
        "Acos",
        "Acosh",
        "Asin",
        "Atanh",
        "Cholesky",
        "Div",
        "DivNoNan",
        "Inv",
        "Log",
        "Log1p",
        "MatrixInverse",
        "Mean",
        "Pow",
        "RealDiv",
        "Reciprocal",
        "Rsqrt",
        "Sqrt",
        "Xdivy",
        "Xlogy",
    }
)

#: Ops that give an exact 0 to logits far below the others, or far below zero.
_SQUASHING: Final = frozenset({"Exp", "Sigmoid", "Softmax"})

#: What a zero out of those, made by the size of the inputs, does to the op that breaks on it.
_OF_SATURATION: Final = frozenset({"division-by-zero", "log-of-zero"})

_NORMALISE: Final = (
    "Learn the scale from the training data: `norm = keras.layers.Normalization(); "
    "norm.adapt(x_train)`, and make it the model's first layer."
)
_RESCALE: Final = (
    "Pixels of 0..255: put `keras.layers.Rescaling(1/127.5, offset=-1)` first in the model; that "
    "maps them to [-1, 1]."
)
_TARGETS: Final = (
    "Train on standardised targets and undo it in the prediction: "
    "`y = (y - y_train.mean()) / y_train.std()`, or on `np.log1p(y)` for prices and the like."
)
_BLUNT: Final = (
    "`clipnorm=1.0` in the optimizer, or a lower learning rate, only hides it: the scale stays."
)


@dataclass(frozen=True, slots=True)
class _Scale:
    """The scale of one array: its magnitude, spread, and the samples that stand far out."""

    name: str
    role: str
    absmax: float
    std: float
    outliers: tuple[int, ...]
    ratio: float


@final
class UnscaledInput(Rule):
    """Inputs or targets are so large, or a sample stands so far out, that the step overshoots.

    The batch is finite and the step is not, or runs away; what broke it is a number too large
    (an overflow, a loss that multiplies), not an op at a singular point.

    Why it diverges: Glorot's and He's initialisers keep the variance of activations constant for
    inputs of about unit variance, and the usual learning rates assume it. The curvature of the
    loss grows with the square of the inputs, so 255 instead of 1 makes a step 65,000 times too
    long. A single outlier does the same to the batch's mean gradient.

    Evidence: `batch/absmax` of an input or of a regression target at or above 100 (unit-variance
    features practically never pass 10; raw pixels of 0..255 are the mildest common case); a
    sample whose largest magnitude in `samples/min` and `samples/max` is 100 times the median
    of the others (and of 1) or more; a loss that grows tenfold between replayed steps, or a
    primary event that is no singular point. Confidence grows with the magnitude: 0.5 at 255, 0.6 at
    1e3, 0.8 at 1e4, 0.9 for a sample 1e6 times the others. Where the op that broke worked in
    float16 or float8, which ordinary activations overflow too, only 1e4 and more counts. A singular
    point counts where its zero came out of a softmax, sigmoid or exp whose logits the chain of
    origin follows to an input of 1e4 or more, and which the weights on the way did not enlarge.

    Fix: `keras.layers.Normalization()` after `adapt(x_train)`, or
    `keras.layers.Rescaling(1/127.5, offset=-1)` for pixels, as the model's first layer;
    standardise regression targets; leave the outlier out or clip it in the loader.

    Mistaken for: a learning rate that is too high (a lower one delays it and slows everything),
    exploding gradients (clipping hides it), an unstable architecture. Inputs behind a Rescaling,
    Normalization or BatchNormalization layer and token ids of an Embedding are not unscaled.

    Seen in: keras-team/keras#3040 (linear regression on 0..199), AppliedDataSciencePartners/
    WorldModels#9 and y0ast/Variational-Autoencoder#5 (0..255 images into exp),
    vanvalenlab/deepcell-tf#445 (a blank tile divided by its own standard deviation).
    """

    id = "unscaled-input"
    code = "DD102"
    needs = frozenset({"batch", "steps"})
    explains = frozenset(
        {
            "exp-overflow",
            "exploding-activation",
            "exploding-gradient",
            "high-learning-rate",
            "low-precision-overflow",
        }
    )

    #: Initialisers (Glorot and Bengio 2010, He et al. 2015) assume unit variance; 100 standard
    #: deviations do not occur in such data.
    LARGE: ClassVar[float] = 100.0
    #: float16 ends at 65504, and sums over a layer's fan-in overflow it from ordinary inputs.
    LARGE_IN_HALF: ClassVar[float] = 1e4
    #: A sample this many times the median magnitude of the others stands out in any distribution
    #: that a network is trained on; one such gives a step 1e4 times too long.
    OUTLIER: ClassVar[float] = 100.0
    #: Of two samples none is the outlier.
    FEWEST: ClassVar[int] = 3
    #: On one batch, a healthy loss does not grow tenfold from one replayed step to a later one.
    RUNAWAY: ClassVar[float] = 10.0
    #: A singular op fed with this or more overflowed (its square does in float32).
    OVERFLOWING: ClassVar[float] = 1e15
    #: exp is 0 in float32 from -104 down; logits of a net that keeps variances, from inputs a
    #: hundred times that, leave no class but one above it.
    SATURATING: ClassVar[float] = 1e4
    #: By so much may the weights between input and logit enlarge: sums of a few dozen terms do.
    ENLARGED: ClassVar[float] = 100.0
    #: Confidence by log10 of the magnitude of the array, and of an outlier's ratio.
    BY_MAGNITUDE: ClassVar[tuple[tuple[float, float], ...]] = (
        (2.0, 0.45),
        (math.log10(255.0), 0.5),
        (3.0, 0.6),
        (4.0, 0.8),
        (6.0, 0.9),
    )
    BY_RATIO: ClassVar[tuple[tuple[float, float], ...]] = ((2.0, 0.6), (4.0, 0.75), (6.0, 0.9))

    def examine(self, trace: Trace) -> Finding | None:
        """Return which array is out of scale, or None where no overflow or runaway asks for it."""
        saturated = self._saturated(trace)
        if trace.outcome == "healthy" or not (saturated or self._overflowed(trace)):
            return None
        scales = self._scales(trace)
        large = [scale for scale in scales if scale.absmax >= self._large(trace)]
        if not large:
            return None
        worst = max(large, key=lambda s: (s.name in _mended(trace), self._confidence(s)))
        return Finding(
            cause=self.id,
            summary=self._sentence(trace, worst),
            confidence=self._confidence(worst),
            stage="data",
            site=_batch.place(trace),
            samples=worst.outliers,
            evidence=(
                *(
                    Evidence(f"largest magnitude in {s.name}", s.absmax, "/batch/absmax")
                    for s in large
                ),
                Evidence(f"standard deviation of {worst.name}", worst.std, "/batch/std"),
                *_outlier_evidence(worst),
                Evidence("last loss", float(_batch.losses(trace)[-1]), "/steps/loss"),
            ),
            remedies=_remedies(worst, {scale.role for scale in large}),
            proofs=tuple(_proofs(worst, large)),
            explains=_OF_SATURATION if saturated else frozenset(),
        )

    def _saturated(self, trace: Trace) -> bool:
        """Say whether a singular op was given a zero that the size of an input made."""
        producer = forward_fault(trace)
        if producer is None or producer.op_type not in _SINGULAR:
            return False
        chain = links_of(trace, producer)
        squashed = [at for at, link in enumerate(chain) if link.name in _SQUASHING]
        if not squashed or chain[squashed[0]].value != 0 or chain[-1].what != "batch":
            return False
        fed = abs(chain[-1].value)
        inputs = set(_batch.arrays(trace, "x")["name"])
        sizes = [abs(link.value) for link in chain[squashed[-1] + 1 :]]
        return bool(
            chain[-1].name in inputs
            and fed >= self.SATURATING
            and max(sizes, default=math.inf) <= self.ENLARGED * fed
        )

    def _overflowed(self, trace: Trace) -> bool:
        """Say whether the step ran away or overflowed, rather than hit a singular point."""
        if _batch.raised(trace) is not None:
            return False
        loss = np.abs(_batch.losses(trace))
        event = _batch.primary(trace)
        if self._ran_away(loss):
            return True
        if event is None:
            return bool(np.isinf(loss).any())
        if not event["produced"]:
            return False
        if event["op_type"] not in _SINGULAR:
            return True
        fed = _operands(trace, event)
        return bool(np.any(fed["absmax"] >= self.OVERFLOWING))

    def _ran_away(self, loss: NDArray[np.float64]) -> bool:
        """Say whether the magnitude of the loss grew and grew, as far as it was finite."""
        finite = loss[np.isfinite(loss)]
        if not finite.size:
            return False
        least = max(float(finite[0]), float(np.finfo(np.float32).tiny))
        return bool(finite.max() / least >= self.RUNAWAY)

    def _large(self, trace: Trace) -> float:
        event = _batch.primary(trace)
        half = event is not None and any(
            str(dtype).startswith(("float16", "float8"))
            for dtype in _operands(trace, event)["dtype"]
        )
        return self.LARGE_IN_HALF if half else self.LARGE

    def _scales(self, trace: Trace) -> list[_Scale]:
        inputs = [r for r in _batch.arrays(trace, "x").rows() if not _is_index(trace, r)]
        behind = _behind_normalisers(trace)
        if behind and len(behind) >= len(inputs) and max(behind) < self.LARGE:
            inputs = []
        targets = [r for r in _batch.arrays(trace, "y").rows() if _is_regression(trace, r)]
        return [self._scale(trace, row) for row in (*inputs, *targets)]

    def _scale(self, trace: Trace, row: dict[str, Any]) -> _Scale:
        samples = _batch.of_array(trace, "samples", row)
        peaks = np.nan_to_num(np.maximum(np.abs(samples["min"]), np.abs(samples["max"])))
        outliers: tuple[int, ...] = ()
        ratio = 1.0
        if peaks.size >= self.FEWEST:
            # Against 1 where the others are smaller: among zeros nothing would be ordinary.
            usual = max(float(np.median(peaks)), 1.0)
            far = peaks >= self.OUTLIER * usual
            outliers = _batch.picked(samples, far)
            ratio = float(peaks.max() / usual) if outliers else 1.0
        return _Scale(row["name"], row["role"], row["absmax"], row["std"], outliers, ratio)

    def _confidence(self, scale: _Scale) -> float:
        by_magnitude = _read(self.BY_MAGNITUDE, scale.absmax)
        return (
            max(by_magnitude, _read(self.BY_RATIO, scale.ratio)) if scale.outliers else by_magnitude
        )

    def _sentence(self, trace: Trace, worst: _Scale) -> str:
        loss = _batch.losses(trace)
        went = f"the loss went from {loss[0]:.3g} to {loss[-1]:.3g}"
        went += f" in {len(loss)} replayed steps" if len(loss) > 1 else ""
        if len(loss) == 1:
            went = f"the loss of the replayed step is {loss[0]:.3g}"
        if worst.outliers:
            return (
                f"{worst.name} of {_batch.named(worst.outliers)} reaches {worst.absmax:.3g}, "
                f"{worst.ratio:.3g} times the median of the samples, and {went}."
            )
        return (
            f"{worst.name} reaches {worst.absmax:.3g} (standard deviation {worst.std:.3g}) where "
            f"initialisers and learning rates assume about 1, and {went}."
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return raw pixels that run away, an outlier, and targets in the thousands."""
        pixels = np.linspace(0.0, 255.0, 32).reshape(8, 4)
        outlier = np.ones((8, 4))
        outlier[5] = 1e6
        overflow = SyntheticEvent("Exp", "forward", layer="sampling", inputs=([200.0],))
        return (
            Example(
                "raw pixels, and a loss that multiplies",
                lambda: training_trace(x=pixels, losses=(1.0, 9e3, math.inf)),
            ),
            Example(
                "one sample a million times the others",
                lambda: training_trace(x=outlier, losses=(math.inf,), events=(overflow,)),
            ),
            Example(
                "house prices as they are",
                lambda: training_trace(
                    y=np.linspace(1e5, 9e5, 8)[:, None], losses=(1e11, 1e20, math.inf)
                ),
            ),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return a healthy run on pixels, pixels behind Rescaling, and a log of zero."""
        pixels = np.linspace(0.0, 255.0, 32).reshape(8, 4)
        return (
            Example("raw pixels that train well", lambda: training_trace(x=pixels)),
            Example(
                "pixels behind a Rescaling layer",
                lambda: training_trace(
                    x=pixels,
                    layers=("rescaling",),
                    layer_class="Rescaling",
                    losses=(1.0, 9e3, math.inf),
                ),
            ),
            Example(
                "the op took the log of zero, no number was large",
                lambda: training_trace(
                    x=pixels,
                    losses=(math.nan,),
                    events=(SyntheticEvent("Log", inputs=([0.0, 1.0],)),),
                ),
            ),
            Example(
                "unit-variance inputs that run away all the same",
                lambda: training_trace(losses=(1.0, 9e3, math.inf)),
            ),
        )


def _read(points: Sequence[tuple[float, float]], value: float) -> float:
    """Return the confidence at ``log10(value)``, linear between the points, flat beyond."""
    at, confidence = zip(*points, strict=True)
    return round(float(np.interp(math.log10(max(value, 1.0)), at, confidence)), 3)


def _operands(trace: Trace, event: dict[str, Any]) -> Any:
    return trace.table("operands").select(step=event["step"], op=event["op"], role="input")


def _is_index(trace: Trace, row: dict[str, Any]) -> bool:
    """Say whether an input holds token ids: an Embedding looks them up, it does not multiply."""
    layers = trace.table("layers")
    behind = layers["layer_class"][layers["layer_class"] != "InputLayer"]
    if "Embedding" not in set(behind):
        return False
    whole = row["integral"] and behind[0] == "Embedding"
    return bool(whole or row["dtype"].startswith(("int", "uint")))


def _is_regression(trace: Trace, row: dict[str, Any]) -> bool:
    """Say whether a label array holds targets whose scale is free to choose."""
    judges = trace.table("targets").select(array=row["name"])
    ids = row["dtype"].startswith(("int", "uint")) and not np.any(judges["builtin"])
    return not ids and not set(judges["loss"]) & _OWN_SCALE


def _behind_normalisers(trace: Trace) -> list[float]:
    """Return the largest output of each normaliser that stands before any layer with weights."""
    peaks = []
    for row in trace.table("layers").rows():
        if row["layer_class"] in _NORMALISERS:
            seen = trace.table("activations").select(layer=row["layer"])
            peak = float(seen["absmax"][0]) if len(seen) else 1.0
            peaks.append(peak if math.isfinite(peak) else 1.0)
        elif row["parameters"] > 0:
            break
    return peaks


def _outlier_evidence(worst: _Scale) -> tuple[Evidence, ...]:
    if not worst.outliers:
        return ()
    return (Evidence("largest sample over the median sample", worst.ratio, "/samples/max"),)


def _mended(trace: Trace) -> frozenset[str]:
    """Return the arrays whose standardising alone, or else together, was seen to mend the step."""
    trials = trace.table("trials").select(name="standardise", outcome="finite")
    told = [json.loads(parameters)["arrays"] for parameters in trials["parameters"]]
    return frozenset(min(told, key=len, default=()))


def _remedies(worst: _Scale, roles: set[str]) -> tuple[str, ...]:
    found = []
    if worst.outliers:
        found.append(
            f"Look at {_batch.named(worst.outliers)}: a wrong unit, a missing-value code (-999, "
            "1e20) or a division by almost zero; drop it, or clip in the loader: "
            "`x = np.clip(x, *np.percentile(x_train, [0.1, 99.9], axis=0))`."
        )
    if "x" in roles:
        found += [_NORMALISE, _RESCALE]
    if "y" in roles:
        found.append(_TARGETS)
    return (*found, _BLUNT)


def _proofs(worst: _Scale, large: Sequence[_Scale]) -> list[Proof]:
    proofs = []
    if worst.outliers:
        proofs.append(Proof("drop-samples", {"samples": list(worst.outliers)}))
    names = [worst.name, *(scale.name for scale in large if scale is not worst)]
    proofs += [Proof("standardise", {"arrays": [name]}) for name in names]
    if len(names) > 1:
        proofs.append(Proof("standardise", {"arrays": names}))
    return proofs
