"""Can a loss be weighted with these sample weights: finite, not negative, not all zero?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.rules import _batch
from divergence_doctor.rules._rule import Evidence, Example, Finding, Proof, Rule, Site
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.trace import Trace

#: Ops that turn a sum of weights of zero into 0/0. DivNoNan gives 0 instead and is not among them.
_DIVIDES: Final = frozenset({"Div", "Mean", "RealDiv", "Reciprocal", "Inv", "Xdivy"})

_FINITE: Final = (
    "Look at how the weights are computed: 1/count of an absent class is Inf, 0/0 is NaN. Guard "
    "it: `weight = total / np.maximum(count, 1)`."
)
_CHECK: Final = (
    "Check them where they are made: "
    "`assert np.isfinite(sample_weight).all() and (sample_weight >= 0).all()`; the same holds for "
    "the values of `class_weight`."
)
_NOT_NEGATIVE: Final = (
    "To train *against* a sample change its label, not the sign of its weight: "
    "`sample_weight = np.maximum(sample_weight, 0)`. For advantages in a policy gradient bound "
    "them, `np.clip(advantage, -1, 1)`, and use a loss that has a lower bound."
)
_GUARD: Final = (
    "Guard the denominator: `tf.math.divide_no_nan(total, tf.reduce_sum(weights))`, or let Keras "
    'do it: `keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")`.'
)
_SOME: Final = (
    "Let every batch hold at least one weighted sample: filter or re-draw batches in which all "
    "weights are zero, `dataset.filter(lambda x, y, w: tf.reduce_sum(w) > 0)`."
)


@final
class BadSampleWeight(Rule):
    """Sample or class weights are NaN, Inf or negative, or all zero where the loss divides.

    All of them are recognised in the arrays of role `sample_weight` of the batch that the failing
    step was fed; Keras turns `class_weight` into such an array.

    Why it diverges: the loss of each sample is multiplied with its weight, so one NaN weight makes
    the mean loss NaN, and 0 * Inf does too. A negative weight turns the minimum of its samples into
    a maximum without bound: the optimizer makes those samples worse for ever. Weights that are all
    zero give 0/0 in a loss that divides by their sum.

    Evidence: `batch/nan`, `batch/posinf`, `batch/neginf`, `batch/negative` and `batch/zero` of the
    array, `samples/min` for the rows, `events/origin` and `events/reaches` for whether they reached
    the loss. There is no threshold: a weight is a finite number from zero up. All-zero weights
    count only where the primary event is a division or a mean in the loss, since Keras' own
    reductions return 0.0 there.

    Fix: `sample_weight = np.where(np.isfinite(w) & (w > 0), w, 0)` after finding out where they
    come from; `keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")` or
    `tf.math.divide_no_nan` where the weights may all be zero.

    Mistaken for: division by zero in the loss (it is, but the batch made it so), NaN in the labels,
    and, for negative weights, a loss that "improves" below zero.

    Seen in: keras-team/keras#3270 and keras-team/keras#545 (a batch in which everything is masked),
    maxpumperla/deep_learning_and_the_game_of_go#90 (cross-entropy times a negative advantage).
    """

    id = "bad-sample-weight"
    code = "DD104"
    needs = frozenset({"batch"})
    explains = _batch.DOWNSTREAM

    #: The loss divides, and the zero it divides by is a sum of these weights (it is in the chain).
    DIVIDED: ClassVar[float] = 0.92
    #: The loss divides; whether by the sum of these weights was not recorded.
    MAYBE_DIVIDED: ClassVar[float] = 0.7
    #: Negative weights, and a loss below zero: no loss of Keras but CosineSimilarity goes there.
    NEGATIVE_LOSS: ClassVar[float] = 0.85
    #: Negative weights, and a step that diverged in some other way.
    NEGATIVE: ClassVar[float] = 0.5
    #: All weights zero, and nothing divided: such a step learns nothing, and that is all.
    HARMLESS: ClassVar[float] = 0.2

    def examine(self, trace: Trace) -> Finding | None:
        """Return what is wrong with the weights: not finite first, then negative, then all zero."""
        bad = _batch.bad_arrays(trace, "sample_weight")
        if bad:
            return self._nonfinite(trace, bad[0])
        rows = list(_batch.arrays(trace, "sample_weight").rows())
        for row in rows:
            if row["negative"]:
                return self._negative(trace, row)
        for row in rows:
            if row["size"] and row["zero"] == row["size"]:
                return self._all_zero(trace, row)
        return None

    def _nonfinite(self, trace: Trace, bad: _batch.BadArray) -> Finding:
        how = _batch.travel(trace, [bad.name])
        first = f", first at [{bad.first}]" if bad.first else ""
        return Finding(
            cause=self.id,
            summary=f"{bad.name} holds {bad.counts} among {bad.size:,} weights{first}; "
            f"{_batch.TRAVELLED[how]}.",
            confidence=_batch.CONFIDENCE[how],
            stage="data",
            site=Site(step=trace.failing_step or 0),
            samples=bad.blamed,
            evidence=(
                Evidence(f"NaN and Inf in {bad.name}", bad.nan + bad.inf, "/batch"),
                Evidence("how far the bad values were seen to travel", how, "/events/reaches"),
            ),
            remedies=(_FINITE, _CHECK),
            proofs=_proofs(bad.name, bad.rows, bad.samples),
        )

    def _negative(self, trace: Trace, row: dict[str, Any]) -> Finding:
        samples = _batch.of_array(trace, "samples", row)
        rows = _batch.picked(samples, samples["min"] < 0)
        loss = _batch.losses(trace)
        fell = bool(np.any(loss < 0))
        sure = self.NEGATIVE_LOSS if fell else self.NEGATIVE
        went = f", and the loss is at {np.nanmin(loss):.3g}" if fell else ""
        return Finding(
            cause=self.id,
            summary=f"{row['name']} is negative in {_batch.named(rows)} (down to {row['min']:g})"
            f"{went}: those samples are trained to be as wrong as they can.",
            confidence=self.HARMLESS if trace.outcome == "healthy" else sure,
            stage="data",
            site=_batch.place(trace),
            samples=rows if len(rows) < len(samples) else (),
            evidence=(
                Evidence("negative weights", row["negative"], "/batch/negative"),
                Evidence("smallest weight", row["min"], "/batch/min"),
            ),
            remedies=(_NOT_NEGATIVE, _CHECK),
            proofs=_proofs(row["name"], rows, len(samples)),
        )

    def _all_zero(self, trace: Trace, row: dict[str, Any]) -> Finding:
        sure = self._divided(trace, row["name"])
        then = (
            f"the loss divides by their sum ({_batch.place(trace).op})"
            if sure > self.HARMLESS
            else "nothing was seen to divide by their sum, so the step only learned nothing"
        )
        return Finding(
            cause=self.id,
            summary=f"all {row['size']:,} weights in {row['name']} are zero, and {then}.",
            confidence=sure,
            stage="data",
            site=_batch.place(trace),
            evidence=(
                Evidence("weights that are zero", row["zero"], "/batch/zero"),
                Evidence("weights", row["size"], "/batch/size"),
            ),
            remedies=(_GUARD, _SOME),
            proofs=_proofs(row["name"], (), 0),
        )

    def _divided(self, trace: Trace, name: str) -> float:
        event = _batch.primary(trace)
        if trace.outcome == "healthy" or event is None:
            return self.HARMLESS
        if event["phase"] == "forward" or event["op_type"] not in _DIVIDES:
            return self.HARMLESS
        chain = trace.table("chain").select(step=event["step"], op=event["op"])
        fed = event["origin_name"] == name or name in set(chain["name"])
        return self.DIVIDED if fed else self.MAYBE_DIVIDED

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return a NaN weight, negative weights, and weights that are all zero."""
        weight = np.ones(8)
        weight[3] = np.nan
        signs = np.array([1.0, 1.0, 1.0, -10.0] * 2)
        zero_over_zero = SyntheticEvent("RealDiv", inputs=([0.0], [0.0]))
        return (
            Example(
                "one weight is NaN",
                lambda: training_trace(
                    sample_weight=weight,
                    losses=(float("nan"),),
                    events=(
                        SyntheticEvent(
                            "Mul", produced=False, origin="batch", origin_name="sample_weight"
                        ),
                    ),
                ),
            ),
            Example(
                "negative weights, and a loss that falls without end",
                lambda: training_trace(
                    sample_weight=signs, losses=(-6.7, -82.0, -985.0), outcome="diverged"
                ),
            ),
            Example(
                "all weights zero, and a loss that divides by their sum",
                lambda: training_trace(
                    sample_weight=np.zeros(8), losses=(float("nan"),), events=(zero_over_zero,)
                ),
            ),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return a batch without weights, and one with a few zeros among them."""
        some = np.array([0.0, 1.0] * 4)
        return (
            Example("no weights", lambda: training_trace(losses=(float("nan"),))),
            Example(
                "a division by zero that has other reasons",
                lambda: training_trace(
                    sample_weight=some, losses=(float("nan"),), events=(SyntheticEvent("RealDiv"),)
                ),
            ),
        )


def _proofs(name: str, rows: tuple[int, ...], total: int) -> tuple[Proof, ...]:
    ones = Proof("unit-weights", {"names": [name]})
    if 0 < len(rows) < total / 2:
        return (Proof("drop-samples", {"samples": list(rows)}), ones)
    return (ones,)
