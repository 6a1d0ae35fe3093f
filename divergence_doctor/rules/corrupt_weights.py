"""Was the checkpoint already broken when it was loaded: weights that are NaN, Inf or impossible?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.rules import _batch, _defects, _initialisers
from divergence_doctor.rules._producer import figure, measured, primary_of
from divergence_doctor.rules._rule import Evidence, Example, Finding, Proof, Rule, Site
from divergence_doctor.rules._singular import DIVISIONS, GROWING
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.rules._producer import Producer
    from divergence_doctor.trace import Trace
    from divergence_doctor.trace.table import Table

#: Statistics that a layer keeps, as Keras names them.
_MOVING: Final = ("moving_mean", "moving_variance")
#: Ops that a negative variance makes fail.
_OF_VARIANCE: Final = frozenset(
    {
        "FusedBatchNorm",
        "FusedBatchNormV2",
        "FusedBatchNormV3",
        "Pow",
        "RealDiv",
        "Rsqrt",
        "Sqrt",
    }
)

_EARLIER: Final = (
    "Go back to the last checkpoint whose weights are finite and replay from there; keep more than "
    'one: `keras.callbacks.ModelCheckpoint("step-{batch}.keras", save_freq=1000)`, and let the '
    "flight recorder take snapshots *before* the step."
)
_LOOK: Final = (
    "Find the first bad one: `for v in model.variables: "
    "print(v.path, np.isfinite(v.numpy()).all())`; a value written by hand (`bias_initializer`, "
    "`assign`, a converted checkpoint) often comes from log(0) or 0/0."
)
_STATISTICS: Final = (
    "The weights are sound: reset and learn the moving statistics again. Set `moving_mean` to 0 "
    "and `moving_variance` to 1 with `v.assign(...)`, then run some hundred batches with "
    "`training=True` and learning rate 0; never let a NaN batch or a batch of one sample in "
    "(`dataset.batch(n, drop_remainder=True)`)."
)
_VARIANCE: Final = (
    "A variance below zero cannot come from training: look for a conversion that mixed up the "
    "order of gamma, beta, mean and variance, or for averaging of checkpoints with extrapolation."
)
_SCALE: Final = (
    "Go back to a checkpoint from before the weights grew, and find out what made them grow: look "
    "at the norm of every weight and of the update in the steps before (`doctor compare`), lower "
    "the rate or clip, `global_clipnorm=1.0`."
)
_ZERO: Final = (
    "Keep a scale that is divided by away from 0: "
    "`self.add_weight(..., constraint=lambda w: keras.ops.maximum(w, 1e-3))`, or learn its "
    "logarithm and divide by `keras.ops.exp(log_scale)`."
)


@final
@dataclass(frozen=True, slots=True)
class _Scale:
    """A variable of a scale that its layer cannot have: its row, and what is ordinary for it."""

    row: dict[str, Any]
    usual: float
    known: bool


@final
class CorruptWeights(Rule):
    """The checkpoint already holds NaN or Inf weights, or values that cannot be.

    Recognised in the variables as they were loaded, before the first replayed step: NaN or Inf in
    any of them; a moving variance below zero; a weight a million times what its layer's initialiser
    makes, or beyond 1e10 where that is 0 or unknown, whose square or product overflowed; a scale of
    0 in a model that has been trained, which the first bad op divided by. Weights that turn bad in
    a replayed step are that step's doing and not this.

    Why it diverges: a model with one NaN weight gives NaN for everything that passes it; the
    gradient carries it to every other weight. Nothing in the batch or the optimizer can mend that.
    A negative moving variance gives the root of a negative number as soon as the layer uses its
    moving statistics. A kernel of 1e20 is finite, but its square in an L2 penalty is not.

    Evidence: `weights/nan`, `weights/posinf`, `weights/neginf` of step 0, `when = before`, and
    `weights/negative` of a `moving_variance`; there is no threshold. `weights/absmax` against the
    root mean square of the initialiser in `layers/config`: training moves a weight by some decades
    where targets are unscaled, 2e5 times for a price of 2e5 on features of order 1; a million times
    is beyond that. `defects` tells where the bad elements lie, and the pattern tells the origin:
    one cell is a value written by hand or a flipped bit; one row of a table is one token or input
    with a bad gradient, one column a unit or class; a whole variable is an initialiser or an
    update; everything at once is a checkpoint that was saved after the divergence; only moving
    statistics is a NaN batch in the forward pass, or a batch of one sample on a GPU; only slots is
    `corrupt-optimizer-state`.

    Fix: go back to the last finite checkpoint and replay from there; bound what is kept with
    `keras.callbacks.ModelCheckpoint(..., save_freq=1000)`; `v.assign(...)` for moving statistics
    and for a bias made from log(class frequency): `np.log(np.maximum(frequency, 1e-6))`.

    Mistaken for: the batch that happens to be in hand (every batch fails), a learning rate that is
    too high (it was, some steps earlier), a broken GPU; an initialiser that is too wide, whose
    weights are what it makes them: `exploding-activation`.

    Seen in: perslev/MultiPlanarUNet#24 (a bias of log(0) for an absent class),
    tensorflow/tensorflow#34062 and keras-team/keras#9646 (moving statistics NaN or Inf while the
    weights are fine).
    """

    id = "corrupt-weights"
    code = "DD601"
    needs = frozenset({"weights"})
    explains = _batch.DOWNSTREAM | {"corrupt-optimizer-state"}

    #: The first bad op read one of these variables.
    READ: ClassVar[float] = 0.97
    #: Bad weights before the first step of a run that broke on bad values from elsewhere (a NaN in
    #: the batch), or in which no op was watched.
    LOADED: ClassVar[float] = 0.9
    #: A negative variance in a run that diverged, where no op was seen to take its root.
    IMPOSSIBLE: ClassVar[float] = 0.7
    #: An op with finite inputs broke the step, and what these variables hold was not seen to reach
    #: the loss (a mask of -Inf kept as a variable, a head that is not used): told, not blamed.
    ELSEWHERE: ClassVar[float] = 0.4
    #: They reached neither loss nor state.
    HARMLESS: ClassVar[float] = 0.3
    #: A weight beyond its initialiser's scale was read by the op that overflowed.
    OVERFLOWED: ClassVar[float] = 0.85
    #: The first step overflowed elsewhere, with such a weight in the model.
    BEHIND: ClassVar[float] = 0.7
    #: The first bad op divided by a variable that is 0 in a model that has been trained.
    ZERO: ClassVar[float] = 0.7
    #: Times the root mean square of the initialiser; see Evidence.
    BEYOND: ClassVar[float] = 1e6
    #: Where the initialiser makes zeros, or is not known: the largest magnitude.
    LARGEST: ClassVar[float] = 1e10

    def examine(self, trace: Trace) -> Finding | None:
        """Return what is wrong with the weights as loaded, or None."""
        weights = trace.table("weights").select(step=0, when="before")
        bad = weights.where(_count(weights) > 0)
        negative = weights.where(_negative_variance(weights))
        if not len(bad) and not len(negative):
            return self._out_of_scale(trace, weights) or self._zero_scale(trace, weights)
        worst = bad if len(bad) else negative
        first = worst.row(0)
        names = [str(name) for name in (*bad["variable"], *negative["variable"])]
        remedy, good = _defects.last_good(trace)
        slots = trace.table("slots").select(step=0, when="before")
        spoilt = slots.where(_defects.nonfinite(slots) > 0)
        along = {"slots": [str(name) for name in spoilt["variable"]]} if len(spoilt) else {}
        return Finding(
            cause=self.id,
            summary=_sentence(trace, weights, bad, negative),
            confidence=self._confidence(trace, bad, negative),
            stage="checkpoint",
            site=self._site(trace, first, bad, negative),
            evidence=(
                Evidence("variables that are not sound as loaded", len(set(names)), "/weights"),
                *_evidence(bad, "NaN and Inf", _count(bad)),
                *_evidence(negative, "variances below zero", negative["negative"]),
                *_defects.described(_defects.of(trace, "weights")),
                *((good,) if good is not None else ()),
            ),
            remedies=(
                *((remedy,) if remedy is not None else ()),
                *_remedies(bad, negative),
            ),
            proofs=(
                Proof(
                    "replace-values",
                    {"where": "weights", "names": list(dict.fromkeys(names)), **along},
                ),
            ),
        )

    def _out_of_scale(self, trace: Trace, weights: Table) -> Finding | None:
        """Return the weights that are finite, and far beyond what their layer makes them."""
        producer = primary_of(trace)
        if trace.outcome != "diverged" or producer is None or producer.op_type not in GROWING:
            return None
        beyond = self._beyond(trace, weights)
        if not beyond:
            return None
        read = _read(trace, producer, {one.row["variable"] for one in beyond})
        first = next((one for one in beyond if one.row["variable"] in read), beyond[0])
        row = first.row
        sane = len(weights) - len(beyond)
        of = (
            f"{row['absmax'] / first.usual:.1g} times what its initialiser makes"
            if first.known
            else ("beyond any that a layer is trained to")
        )
        remedy, good = _defects.last_good(trace)
        sure = self.OVERFLOWED if read else self.BEHIND if producer.step == 0 else self.ELSEWHERE
        return Finding(
            cause=self.id,
            summary=(
                f"{row['variable']} goes up to {figure(row['absmax'])} as loaded, {of}, and "
                f"{producer.op_type} {producer.place} overflows on it; {sane} of {len(weights)} "
                "variables are of an ordinary scale."
            ),
            confidence=sure,
            stage="checkpoint",
            site=Site(
                step=producer.step,
                layer=producer.layer or None,
                op=producer.op_type,
                source=producer.source or None,
                variable=row["variable"],
            ),
            evidence=(
                *(
                    measured(f"largest value of {one.row['variable']}", one.row["absmax"],
                             "/weights/absmax")
                    for one in beyond[:4]
                ),
                measured("root mean square that its initialiser gives", first.usual,
                         "/layers/config"),
                Evidence("variables of an ordinary scale", sane, "/weights"),
                *((good,) if good is not None else ()),
            ),
            remedies=(*((remedy,) if remedy is not None else ()), _SCALE),
            proofs=(
                Proof(
                    "rescale-weights",
                    {"scales": {one.row["variable"]: one.usual for one in beyond}},
                ),
            ),
        )  # fmt: skip

    def _beyond(self, trace: Trace, weights: Table) -> list[_Scale]:
        """Return the trainable variables that are out of scale, the worst first."""
        configs = {str(row["layer"]): row["config"] for row in trace.table("layers").rows()}
        found = []
        for row in weights.rows():
            usual = _initialisers.root_mean_square(
                configs.get(row["layer"], ""), row["variable"], row["shape"]
            )
            known = math.isfinite(usual) and usual > 0
            most = self.BEYOND * usual if known else self.LARGEST
            if row["trainable"] and row["absmax"] > most:
                found.append(_Scale(row, usual if known else 0.0, known))
        return sorted(found, key=lambda one: -one.row["absmax"])

    def _zero_scale(self, trace: Trace, weights: Table) -> Finding | None:
        """Return the variable that is 0 in a trained model, and was divided by."""
        producer = primary_of(trace)
        if trace.outcome != "diverged" or producer is None or producer.step > 0:
            return None
        below = producer.input(DIVISIONS.get(producer.op_type, -1))
        counts = trace.table("hyperparameters").select(step=0, name="iterations")
        trained = len(counts) and float(counts["value"].max()) > 0
        if below is None or below.origin != "variable" or not below.zero or not trained:
            return None
        rows = weights.select(variable=below.origin_name)
        if not len(rows):
            return None
        row = rows.row(0)
        return Finding(
            cause=self.id,
            summary=(
                f"{row['variable']} holds {row['zero']} zeros among {row['size']:,} values as "
                f"loaded, after {float(counts['value'].max()):.0f} steps, and {producer.op_type} "
                f"{producer.place} divides by it."
            ),
            confidence=self.ZERO,
            stage="checkpoint",
            site=Site(
                step=producer.step,
                layer=producer.layer or row["layer"] or None,
                op=producer.op_type,
                source=producer.source or None,
                variable=row["variable"],
            ),
            evidence=(
                Evidence("zeros in the scale as loaded", row["zero"], "/weights/zero"),
                measured("steps the model was trained for", float(counts["value"].max()),
                         "/hyperparameters/value"),
            ),
            remedies=(_ZERO, _EARLIER),
            proofs=(
                Proof(
                    "replace-values",
                    {"where": "weights", "names": [row["variable"]], "zeros": True},
                ),
            ),
        )  # fmt: skip

    def _confidence(self, trace: Trace, bad: Table, negative: Table) -> float:
        names = {str(name) for name in (*bad["variable"], *negative["variable"])}
        how = _batch.travel(trace, names, origins=("variable",))
        if how == "harmless":
            return self.HARMLESS
        if how in {"primary", "reached"} or self._root_of_variance(trace, negative):
            return self.READ
        if how in {"stopped", "other-producer"}:
            return self.ELSEWHERE
        return self.LOADED if len(bad) else self.IMPOSSIBLE

    def _site(self, trace: Trace, first: dict[str, Any], bad: Table, negative: Table) -> Site:
        """Return the place of the variable, with the op where one made the first NaN of it."""
        rooted = not len(bad) and self._root_of_variance(trace, negative)
        event = _batch.primary(trace) if rooted else None
        return Site(
            step=0 if event is None else event["step"],
            layer=first["layer"] or None,
            op=None if event is None else event["op_type"],
            source=(event["source"] or None) if event is not None else None,
            variable=first["variable"],
        )

    def _root_of_variance(self, trace: Trace, negative: Table) -> bool:
        """Say whether the op that broke the step took the root of such a variance."""
        event = _batch.primary(trace)
        if event is None or event["op_type"] not in _OF_VARIANCE:
            return False
        return event["layer"] in set(negative["layer"])

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return weights that are NaN, infinite, negative, enormous, or zero below the line."""
        read = SyntheticEvent(
            "MatMul",
            "forward",
            layer="head",
            produced=False,
            origin="variable",
            origin_name="head/kernel",
        )
        root = SyntheticEvent("Rsqrt", "forward", layer="batch_normalization")
        return (
            Example(
                "a kernel that is NaN as loaded",
                lambda: training_trace(
                    weights={"head/kernel": np.full((4, 2), np.nan)},
                    losses=(float("nan"),),
                    events=(read,),
                ),
            ),
            Example(
                "a bias of log(class frequency) with an absent class",
                lambda: training_trace(
                    weights={"head/bias": np.array([-0.85, -np.inf, 0.0])},
                    losses=(float("nan"),),
                ),
            ),
            Example(
                "a moving variance below zero",
                lambda: training_trace(
                    weights={"batch_normalization/moving_variance": np.array([1.0, -0.5])},
                    losses=(float("nan"),),
                    events=(root,),
                ),
            ),
            Example("a kernel of 1e20 whose L2 penalty overflows", _penalty),
            Example("a trained scale of 0 that is divided by", lambda: _scale(4e3)),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return sound weights: in a healthy run, and in one that broke in its first step."""
        return (
            Example("a healthy run", training_trace),
            Example(
                "weights that a replayed step broke",
                lambda: training_trace(losses=(2.0, float("nan")), update_ratio=1e6),
            ),
            Example(
                "kernels may be negative, and so may a moving mean",
                lambda: training_trace(
                    weights={"batch_normalization/moving_mean": np.array([-1.0, 1.0])},
                    losses=(float("nan"),),
                ),
            ),
            Example("kernels of 40, which an initialiser may make", _wide),
            Example("a penalty that overflows on a bias of 1e5, a price", _price),
            Example("a scale of 0 that a model starts from", lambda: _scale(0.0)),
        )


def _penalty() -> Trace:
    return _overflow({"head/kernel": np.array([[1e20, -2e19], [3e19, 0.1]])}, "head/kernel")


def _price() -> Trace:
    return _overflow({"head/bias": np.array([2e5])}, "head/bias")


def _overflow(weights: dict[str, Any], read: str) -> Trace:
    event = SyntheticEvent(
        "Square",
        inputs=(weights[read],),
        input_values=(float(np.max(weights[read])),),
        input_variables=(read,),
        outputs=([np.inf],),
    )
    return training_trace(losses=(float("inf"),), weights=weights, events=(event,))


def _wide() -> Trace:
    event = SyntheticEvent("MatMul", phase="forward", layer="dense_1", outputs=([np.inf],))
    return training_trace(losses=(float("nan"),), weight_l2=320.0, events=(event,))


def _scale(iterations: float) -> Trace:
    event = SyntheticEvent(
        "RealDiv",
        phase="forward",
        layer="standardise",
        inputs=([0.3, 0.1], [0.0, 1.0]),
        input_values=(0.3, 0.0),
        input_variables=("", "standardise/scale"),
        outputs=([np.inf],),
    )
    return training_trace(
        losses=(float("nan"),),
        weights={"standardise/scale": np.array([0.0, 1.0])},
        hyperparameters={"iterations": iterations},
        events=(event,),
    )


def _read(trace: Trace, producer: Producer, names: set[str]) -> frozenset[str]:
    """Return which of some variables the first bad op read, or the chain that fed it came from."""
    chain = trace.table("chain").select(step=producer.step, what="variable")
    fed = {str(name) for name in chain["name"]}
    fed |= {operand.origin_name for operand in producer.operands if operand.origin == "variable"}
    return frozenset(fed & names)


def _count(weights: Table) -> Any:
    return weights["nan"] + weights["posinf"] + weights["neginf"]


def _negative_variance(weights: Table) -> Any:
    named = [str(name).endswith("moving_variance") for name in weights["variable"]]
    return np.asarray(named, dtype=bool) & (weights["negative"] > 0)


def _sentence(trace: Trace, weights: Table, bad: Table, negative: Table) -> str:
    if not len(bad):
        row = negative.row(0)
        return (
            f"{row['variable']} holds {row['negative']} of {row['size']} variances below zero as "
            f"loaded (down to {row['min']:.3g}), which no training step can produce."
        )
    row, count = bad.row(0), _count(bad)
    more = f", the first of {len(bad)} such variables of {len(weights)}" if len(bad) > 1 else ""
    return (
        f"{row['variable']} holds {int(count[0])} NaN or Inf among {row['size']:,} values as "
        f"loaded{more}; {_pattern(trace, weights, bad)}."
    )


def _pattern(trace: Trace, weights: Table, bad: Table) -> str:
    """Return what the pattern of the bad values says about where they came from."""
    count = _count(bad)
    if all(str(name).endswith(_MOVING) for name in bad["variable"]):
        return "only moving statistics are hit, as after a NaN batch in the forward pass"
    if len(bad) == len(weights) > 1:
        return "every variable is hit: the checkpoint was saved after the divergence"
    if len(bad) == 1:
        places = _defects.of(trace, "weights").select(variable=bad["variable"][0])
        if len(places) == 1:
            row = places.row(0)
            return f"{_defects.place(row)} and in no other variable: {_defects.meaning(row)}"
        return _pattern_of_one(int(count[0]), bad.row(0))
    layers = set(bad["layer"])
    if len(layers) == 1 and len(bad) == np.count_nonzero(weights["layer"] == bad["layer"][0]):
        return "the whole layer is hit and no other: its initialiser, a partial load, or its loss"
    return (
        f"{len(layers)} layers are hit: the update of an earlier step spread a NaN gradient, so "
        "the checkpoint was saved after the divergence"
    )


def _pattern_of_one(count: int, row: dict[str, Any]) -> str:
    width = int(row["shape"].rpartition("x")[2] or 1)
    if count == 1:
        return "a single cell is hit: a value written by hand, or a flipped bit"
    if count == row["size"]:
        return "the whole variable is hit and no other: its initialiser, or one bad update"
    if "x" in row["shape"] and count % width == 0:
        rows = count // width
        return (
            f"the count fits {rows} whole row{'s' if rows > 1 else ''} of {width}: tokens or "
            "inputs whose gradient was bad"
        )
    return "part of one variable is hit and no other: one bad update, or a value written by hand"


def _evidence(table: Table, what: str, counts: Any) -> tuple[Evidence, ...]:
    """Return one figure per variable, for the first few."""
    most = 8
    return tuple(
        Evidence(f"{what} in {name}", int(count), "/weights")
        for name, count in list(zip(table["variable"], counts, strict=True))[:most]
    )


def _remedies(bad: Table, negative: Table) -> tuple[str, ...]:
    moving = len(negative) > 0 or any(str(name).endswith(_MOVING) for name in bad["variable"])
    found = [_VARIANCE] if len(negative) else []
    if moving:
        found.append(_STATISTICS)
    if not all(str(name).endswith(_MOVING) for name in bad["variable"]):
        found += [_EARLIER, _LOOK]
    return tuple(found)
