"""Does the batch hold inputs that no model could digest: NaN, Inf, an index beyond the table?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.rules import _batch
from divergence_doctor.rules._rule import Evidence, Example, Finding, Proof, Rule, Site
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.trace import Trace

#: What TensorFlow's gather kernels say: ``indices[3,0] = 500 is not in [0, 100)``, or for GatherNd
#: ``indices[3] = [500] does not index into param shape [100,3]``.
_INDEX: Final = re.compile(
    r"indices\[(?P<at>[\d,]*)\] = (?P<value>-?\d+) is not in \[0, ?(?P<n>\d+)\)"
)
_INDEX_ND: Final = re.compile(
    r"indices\[(?P<at>[\d,]*)\] = \[(?P<value>-?\d+)[-\d, ]*\] does not index into param shape "
    r"\[(?P<n>\d+)"
)

_DROP_ROWS: Final = (
    "Drop the bad rows where the data is loaded, and count them: "
    "`good = np.isfinite(x).reshape(len(x), -1).all(axis=1); x, y = x[good], y[good]`. "
    "`np.nan_to_num(x)` hides the hole, it does not mend it."
)
_NORMALISER: Final = (
    "Look at what divides in the loader (row sum, standard deviation, peak): a constant feature or "
    "an empty row gives 0/0. Guard it: `x / np.maximum(x.std(axis=0), 1e-6)`."
)
_CHECK: Final = (
    "Refuse such a batch at the door: "
    '`dataset = dataset.map(lambda x, y: (tf.debugging.check_numerics(x, "x"), y))`.'
)


@dataclass(frozen=True, slots=True)
class _Lookup:
    """An index that no table holds: what was asked for, of how many, and where it stands."""

    value: int
    count: int
    array: str
    samples: tuple[int, ...]
    total: int


@final
class BadInput(Rule):
    """The model's inputs hold NaN or Inf, or an index beyond what the model can look up.

    A NaN or Inf is recognised in the arrays of role `x` of the batch that the failing step was fed.
    An index is recognised where a lookup raised and named it, or where the batch asks an Embedding
    for a row beyond its `input_dim`.

    Why it diverges: a NaN that meets a weight makes every output of that unit NaN, the loss NaN,
    and in the backward pass every weight NaN; one cell is enough to lose the model. An index beyond
    the table has no row: a CPU raises InvalidArgumentError, an accelerator or XLA silently takes
    zeros or the last row instead.

    Evidence: `batch/nan`, `batch/posinf`, `batch/neginf` and `cells` (any such cell counts: there
    is no threshold), `samples/nonfinite` for the rows, `events/origin` and `events/reaches` for
    whether the value reached the loss, a gradient or a state; `steps/raised` for an index. A NaN
    that reaches none of them (max-pooling drops it, `tf.where` replaces it) is told with a
    confidence below 0.5 and never blamed.

    Fix: drop or repair the rows in the loader, e.g.
    `good = np.isfinite(x).reshape(len(x), -1).all(axis=1); x, y = x[good], y[good]`; look for the
    division that made them. For an index: `keras.layers.Embedding(input_dim=x.max() + 1, ...)`.

    Mistaken for: a learning rate that is too high, or vanishing luck: training "breaks at random",
    namely when the shuffled row comes up. Under oneDNN's fused kernels a NaN feature can give a
    finite loss while the kernel behind it turns NaN, so the next, innocent batch is blamed.

    Seen in: danielegrattarola/keras-gat#14 (0/0 in the row normalisation of empty nodes),
    keras-team/keras#1880 (division by a zero standard deviation), yxlu-0102/MP-SENet#33 (a silent
    clip divided by its peak).
    """

    id = "bad-input"
    code = "DD101"
    needs = frozenset({"batch"})
    explains = _batch.DOWNSTREAM

    #: A lookup raised and named an index that the batch holds: the kernel's own words.
    RAISED: ClassVar[float] = 0.97
    #: The batch asks an Embedding for a row it has not, and nothing raised: accelerators and XLA
    #: return zeros or the last row (checked on TensorFlow 2.21), which is wrong but finite.
    SILENT: ClassVar[float] = 0.4
    #: The same, in a healthy run.
    HARMLESS: ClassVar[float] = 0.3

    def examine(self, trace: Trace) -> Finding | None:
        """Return what is wrong with the inputs, or None."""
        bad = _batch.bad_arrays(trace, "x")
        if bad:
            return self._nonfinite(trace, bad)
        return self._raised_lookup(trace) or self._silent_lookup(trace)

    def _nonfinite(self, trace: Trace, bad: tuple[_batch.BadArray, ...]) -> Finding:
        names = [array.name for array in bad]
        how = _batch.travel(trace, names)
        worst = bad[0]
        proofs = [Proof("replace-values", {"where": "batch", "names": names})]
        rows = tuple(sorted({row for array in bad for row in array.rows}))
        if 0 < len(rows) < worst.samples / 2:
            proofs.append(Proof("drop-samples", {"samples": list(rows)}))
        return Finding(
            cause=self.id,
            summary=_sentence(bad, how, _batch.entered(trace, names)),
            confidence=_batch.CONFIDENCE[how],
            stage="data",
            site=Site(step=trace.failing_step or 0),
            samples=rows if len(rows) < worst.samples else (),
            evidence=(
                *(_evidence(array) for array in bad),
                Evidence("how far the bad values were seen to travel", how, "/events/reaches"),
            ),
            remedies=(_DROP_ROWS, _NORMALISER, _CHECK),
            proofs=tuple(proofs),
        )

    def _raised_lookup(self, trace: Trace) -> Finding | None:
        step = _batch.raised(trace)
        # Beyond the forward pass no op looks up what the batch asks for.
        if step is None or step["raised_phase"] != "forward":
            return None
        said = _INDEX.search(step["raised"]) or _INDEX_ND.search(step["raised"])
        if said is None:
            return None
        lookup = _locate(trace, int(said["value"]), int(said["n"]), said["at"])
        layer = step["raised_layer"] or None
        where = f"layer '{layer}'" if layer else step["raised_op"] or "a lookup"
        asked = f"{lookup.array or 'the batch'} asks {where} for index {lookup.value}"
        return Finding(
            cause=self.id,
            summary=f"{asked}{_in(lookup.samples)}, but it can look up only 0 to "
            f"{lookup.count - 1}.",
            confidence=self.RAISED,
            stage="data",
            site=_batch.place_raised(step),
            samples=lookup.samples if len(lookup.samples) < lookup.total else (),
            evidence=(
                Evidence("index that was looked up", lookup.value, "/steps/raised"),
                Evidence("rows that can be looked up", lookup.count, "/steps/raised"),
                Evidence("samples that ask beyond them", len(lookup.samples), "/samples/max"),
            ),
            remedies=_lookup_remedies(lookup),
            proofs=_lookup_proofs(lookup),
        )

    def _silent_lookup(self, trace: Trace) -> Finding | None:
        """Look for an index beyond the one Embedding that stands right behind the one input."""
        inputs = _batch.arrays(trace, "x")
        layers = trace.table("layers")
        behind = layers.where(layers["layer_class"] != "InputLayer")
        if _batch.raised(trace) or len(inputs) != 1 or not len(behind):
            return None
        first, array = behind.row(0), inputs.row(0)
        count = _batch.as_json(first["config"]).get("input_dim")
        if first["layer_class"] != "Embedding" or not isinstance(count, int):
            return None
        if not array["integral"] or not array["max"] >= count:
            return None
        lookup = _locate(trace, int(array["max"]), count, "")
        return Finding(
            cause=self.id,
            summary=f"{array['name']} asks layer '{first['layer']}' for index {lookup.value}"
            f"{_in(lookup.samples)}, but its input_dim is {count}; this device took some other row "
            "in silence.",
            confidence=self.HARMLESS if trace.outcome == "healthy" else self.SILENT,
            stage="data",
            site=Site(step=trace.failing_step or 0, layer=first["layer"]),
            samples=lookup.samples if len(lookup.samples) < lookup.total else (),
            evidence=(
                Evidence("largest index in the batch", lookup.value, "/batch/max"),
                Evidence("input_dim of the Embedding", count, "/layers/config"),
            ),
            remedies=_lookup_remedies(lookup),
            proofs=_lookup_proofs(lookup),
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return a NaN that reached the loss, one that did not, and an index beyond the table."""
        x = np.ones((8, 4))
        x[3, 2] = np.nan
        tokens = np.arange(32).reshape(8, 4)
        tokens[3, 0] = 500
        return (
            Example(
                "one NaN cell reaches the loss",
                lambda: training_trace(
                    x=x,
                    losses=(float("nan"),),
                    events=(
                        SyntheticEvent(
                            "MatMul",
                            "forward",
                            layer="dense",
                            produced=False,
                            origin="batch",
                            origin_name="x",
                            samples=(3,),
                        ),
                    ),
                ),
            ),
            Example(
                "a NaN that max-pooling dropped: told, not blamed",
                lambda: training_trace(x=x, outcome="healthy"),
            ),
            Example(
                "token id 500 in an Embedding of 100 rows",
                lambda: training_trace(
                    x=tokens,
                    layers=("embedding", "dense"),
                    outcome="diverged",
                    raised="indices[3,0] = 500 is not in [0, 100) [Op:GatherV2]",
                    raised_type="InvalidArgumentError",
                    raised_op="GatherV2",
                    raised_layer="embedding",
                ),
            ),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return a healthy run, a NaN that an op made, and a NaN in the labels only."""
        y = np.ones((8, 1))
        y[0] = np.nan
        return (
            Example("finite inputs", training_trace),
            Example(
                "the NaN was made by an op",
                lambda: training_trace(losses=(float("nan"),), events=(SyntheticEvent("Log"),)),
            ),
            Example(
                "the NaN stands in the labels",
                lambda: training_trace(y=y, losses=(float("nan"),)),
            ),
        )


def _sentence(bad: tuple[_batch.BadArray, ...], how: _batch.Travel, entered: str) -> str:
    worst = bad[0]
    first = f", first at [{worst.first}]" if worst.first else ""
    rest = f" (and {', '.join(array.name for array in bad[1:])} too)" if len(bad) > 1 else ""
    ends = _batch.TRAVELLED[how]
    if entered:
        joint = ", " if ends.startswith("but") else " and "
        ends = f"they entered through {entered}{joint}{ends.removeprefix('they ')}"
    return (
        f"{worst.name} holds {worst.counts} among {worst.size:,} values in "
        f"{len(worst.rows)} of {worst.samples} samples{first}{rest}; {ends}."
    )


def _evidence(array: _batch.BadArray) -> Evidence:
    return Evidence(f"NaN and Inf in {array.name}", array.nan + array.inf, "/batch")


def _locate(trace: Trace, value: int, count: int, at: str) -> _Lookup:
    """Return the array and the samples that hold an index beyond ``count``.

    Keras wraps negative indices once, so the kernel may name ``value + count`` instead of what the
    batch holds; a negative index counts as beyond only where the kernel complained of a negative.
    """
    for row in _integral_inputs(trace):
        samples = _batch.of_array(trace, "samples", row)
        beyond = samples["max"] >= count
        if value < 0:
            beyond |= samples["min"] < 0
        if np.any(beyond):
            rows = _batch.picked(samples, beyond)
            return _Lookup(value, count, row["name"], rows, len(samples))
    first = at.partition(",")[0]
    return _Lookup(value, count, "", (int(first),) if first else (), 1 << 62)


def _integral_inputs(trace: Trace) -> list[dict[str, Any]]:
    """Return the arrays of whole numbers among the inputs, those of an integer dtype first."""
    rows = [row for row in _batch.arrays(trace, "x").rows() if row["integral"]]
    return sorted(rows, key=lambda row: not row["dtype"].startswith(("int", "uint")))


def _in(samples: tuple[int, ...]) -> str:
    return f" in {_batch.named(samples)}" if samples else ""


def _lookup_proofs(lookup: _Lookup) -> tuple[Proof, ...]:
    proofs = []
    if lookup.array:
        proofs.append(Proof("valid-indices", {"array": lookup.array, "high": lookup.count - 1}))
    if 0 < len(lookup.samples) < lookup.total / 2:
        proofs.append(Proof("drop-samples", {"samples": list(lookup.samples)}))
    return tuple(proofs)


def _lookup_remedies(lookup: _Lookup) -> tuple[str, ...]:
    if lookup.value < 0:
        table = (
            "An id below zero usually marks padding: shift the ids by one and let the Embedding "
            "mask them, `keras.layers.Embedding(input_dim=vocabulary + 1, ..., mask_zero=True)`."
        )
    else:
        table = (
            "Make the table as large as the vocabulary: `keras.layers.Embedding(input_dim="
            f"{lookup.value + 1}, ...)` at least; with reserved ids (padding, out-of-vocabulary) "
            "it is `len(vocabulary)` plus those."
        )
    remap = (
        "Or map unknown ids to one that exists where the data is loaded: "
        f"`x = np.where((x >= 0) & (x < {lookup.count}), x, oov_id)`."
    )
    check = (
        f"Check it at the door: `tf.debugging.assert_less(x, {lookup.count})`; an accelerator "
        "does not raise, it takes some other row."
    )
    return (table, remap, check)
