"""What can be said of a batch without the model it was made for?

What breaks every model (NaN, Inf, a negative weight) is a *problem*. What breaks many (values far
from zero, class ids below zero) is *suspicious*, and what is merely worth knowing is a *note*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, final

import numpy as np

from divergence_doctor import _rows
from divergence_doctor.batches import describe
from divergence_doctor.rules import all_rules
from divergence_doctor.rules.unscaled_input import UnscaledInput
from divergence_doctor.trace import TraceBuilder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from divergence_doctor.batches import Batch
    from divergence_doctor.trace import Trace

Level = Literal["problem", "suspicious", "note"]

_CAUSES: Final = {"x": "bad-input", "y": "bad-labels", "sample_weight": "bad-sample-weight"}
_WHAT: Final = {"x": "inputs", "y": "labels", "sample_weight": "weights"}
_CHUNK: Final = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class Remark:
    """One thing to know about a batch.

    Attributes:
        level: how much it matters.
        array: name of the array; empty when it is about several.
        says: a sentence with the figures.
        cause: id of the cause that it leads to (``doctor explain``); None when none is known.
        samples: samples it holds for; empty when it is about all of them.
        fix: what to do about it; empty for a note.
    """

    level: Level
    array: str
    says: str
    cause: str | None = None
    samples: tuple[int, ...] = ()
    fix: str = ""


@final
@dataclass(frozen=True)
class Review:
    """A batch and what there is to say about it.

    Attributes:
        batch: the batch.
        arrays: rows of the trace's table ``batch``, roles settled.
        remarks: the gravest first.
        classes: how often each class id occurs, by label array.
    """

    batch: Batch
    arrays: tuple[dict[str, Any], ...]
    remarks: tuple[Remark, ...]
    classes: dict[str, dict[int, int]] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Nothing in it breaks every model."""
        return all(remark.level != "problem" for remark in self.remarks)


@final
@dataclass(frozen=True)
class _Array:
    """One array with its row of the trace, seen sample by sample."""

    name: str
    role: str
    values: NDArray[Any]
    row: dict[str, Any]
    samples: Any
    first_bad: str
    fixes: dict[str, str]

    #: Inputs beyond it are out of range in any scaling that a network is trained on; unit-variance
    #: features stay below 10, raw pixels below 256.
    RANGE: ClassVar[float] = 1e3
    #: More distinct whole numbers than this are no class ids.
    MOST_CLASSES: ClassVar[int] = 1_000
    #: No embedding or class table is as long; beyond 2**63 a cast to integers overflows.
    LARGEST_ID: ClassVar[float] = 2.0**31
    #: Samples that a sentence names.
    MOST_NAMED: ClassVar[int] = 8

    @property
    def numeric(self) -> bool:
        return self.values.dtype.kind in "biuf"

    @property
    def what(self) -> str:
        return _WHAT[self.role]

    def picked(self, mask: Any) -> tuple[int, ...]:
        """Return the samples for which a mask over the rows of ``samples`` holds."""
        return tuple(int(one) for one in self.samples["sample"][np.asarray(mask, dtype=bool)])

    def in_samples(self, rows: Sequence[int]) -> str:
        """Return ``in sample 3`` and the like; ``in every sample`` where it is every one."""
        total = len(self.values) if self.values.ndim else 1
        if len(rows) == total:
            return "in every sample"
        most = self.MOST_NAMED
        names = ", ".join(str(row) for row in rows[:most]) + (", ..." if len(rows) > most else "")
        return f"in sample{'' if len(rows) == 1 else 's'} {names} ({len(rows):,} of {total:,})"

    def remark(
        self, level: Level, says: str, *, rows: Sequence[int] = (), cause: str | None = None
    ) -> Remark:
        fix = "" if level == "note" or cause is None else self.fixes.get(cause, "")
        return Remark(level, self.name, f"{self.name}: {says}.", cause, tuple(rows), fix)


def review(batch: Batch) -> Review:
    """Return what there is to say about a batch, without any model.

    Args:
        batch: the batch; arrays whose names do not say their role are taken for inputs.
    """
    roles = {name: batch.role(name) or "x" for name in batch.arrays}
    builder = TraceBuilder()
    describe(batch, 0, builder, roles=roles)
    trace = builder.build()
    fixes = _fixes(trace)
    rows = tuple(trace.table("batch").rows())
    arrays = [
        _Array(
            name=row["name"],
            role=row["role"],
            values=batch.arrays[row["name"]],
            row=row,
            samples=trace.table("samples").select(name=row["name"]),
            first_bad=next(iter(trace.table("cells").select(name=row["name"])["index"]), ""),
            fixes=fixes,
        )
        for row in rows
    ]
    remarks = [remark for array in arrays for check in _CHECKS for remark in check(array)]
    remarks += _of_all(batch, arrays)
    ranks: dict[Level, int] = {"problem": 0, "suspicious": 1, "note": 2}
    return Review(
        batch=batch,
        arrays=rows,
        remarks=tuple(sorted(remarks, key=lambda remark: ranks[remark.level])),
        classes={
            array.name: counts for array in arrays if (counts := _class_counts(array)) is not None
        },
    )


def _fixes(trace: Trace) -> dict[str, str]:
    """Return what each rule about data says is to be done, where it finds its cause."""
    verdicts = (rule.ask(trace) for rule in all_rules() if rule.code.startswith("DD1"))
    return {
        verdict.finding.cause: verdict.finding.remedies[0]
        for verdict in verdicts
        if verdict.finding is not None and verdict.finding.remedies
    }


# ---------------------------------------------------------------------- one array


def _nonfinite(array: _Array) -> Iterator[Remark]:
    counts = [(array.row["nan"], "NaN"), (array.row["posinf"] + array.row["neginf"], "Inf")]
    told = " and ".join(f"{count:,} {word}" for count, word in counts if count)
    if told:
        rows = array.picked(array.samples["nonfinite"] > 0)
        first = f", first at [{array.first_bad}]" if array.first_bad else ""
        says = f"{told} among {array.row['size']:,} values, {array.in_samples(rows)}{first}"
        yield array.remark("problem", says, rows=rows, cause=_CAUSES[array.role])


def _range(array: _Array) -> Iterator[Remark]:
    """Yield inputs and real targets so large that most networks overshoot on them."""
    absmax = array.row["absmax"]
    counted = array.values.dtype.kind in "biu" and array.values.dtype != np.uint8
    if array.role == "sample_weight" or counted or math.isnan(absmax) or _are_classes(array):
        return
    ranged = f"values reach from {array.row['min']:.4g} to {array.row['max']:.4g}"
    advice = "`keras.layers.Normalization()` or `keras.layers.Rescaling` first in the model"
    if absmax > array.RANGE:
        yield Remark(
            "suspicious",
            array.name,
            f"{array.name}: {ranged}, beyond ±{array.RANGE:g}; if they are no ids, scale them.",
            UnscaledInput.id,
            (),
            f"{advice}." if array.role == "x" else "Train on standardised targets.",
        )
    elif absmax >= UnscaledInput.LARGE and array.role == "x":
        says = f"{ranged}; unless the model scales them itself, put {advice}"
        yield array.remark("note", says, cause=UnscaledInput.id)


def _outliers(array: _Array) -> Iterator[Remark]:
    """Yield samples whose magnitude is a hundred times that of the others."""
    if array.role == "sample_weight" or not array.numeric or _are_classes(array):
        return
    magnitudes = np.fmax(np.abs(array.samples["min"]), np.abs(array.samples["max"]))
    known = magnitudes[np.isfinite(magnitudes)]
    if len(known) < UnscaledInput.FEWEST:
        return
    usual = max(float(np.median(known)), np.finfo(np.float64).tiny)
    rows = array.picked(magnitudes >= UnscaledInput.OUTLIER * max(usual, 1.0))
    if rows:
        most = float(np.nanmax(magnitudes))
        says = f"magnitudes up to {most:.4g} {array.in_samples(rows)}; half of the samples stay"
        yield array.remark(
            "suspicious", f"{says} below {usual:.4g}", rows=rows, cause=UnscaledInput.id
        )


def _zeros(array: _Array) -> Iterator[Remark]:
    """Yield samples that hold nothing but zeros: silence, an empty mask, a missing image."""
    empty = (array.samples["zero"] == array.samples["size"]) & (array.samples["size"] > 1)
    rows = array.picked(empty)
    if array.numeric and rows and array.role != "sample_weight":
        says = f"nothing but zeros {array.in_samples(rows)}; a log, a norm or a mean over them"
        yield array.remark("note", f"{says} is where a step breaks", rows=rows)


def _constant(array: _Array) -> Iterator[Remark]:
    if array.role != "x" or not array.numeric or len(array.samples) < 2:
        return
    constant, features = _constant_features(array.values)
    if constant == features > 1:
        says = "every sample is the same: nothing can be learned from it, and scaling it divides"
        yield array.remark("suspicious", f"{says} by a standard deviation of zero")
    elif constant:
        says = f"{constant:,} of {features:,} features hold the same value in every sample; scaling"
        yield array.remark("note", f"{says} such a feature divides by zero")


def _constant_features(values: NDArray[Any]) -> tuple[int, int]:
    rows = values.reshape(len(values), -1)
    width = max(1, _CHUNK // max(1, len(rows)))
    constant = sum(
        int(np.count_nonzero((part == part[0]).all(axis=0)))
        for part in (rows[:, start : start + width] for start in range(0, rows.shape[1], width))
    )
    return constant, rows.shape[1]


def _twins(array: _Array) -> Iterator[Remark]:
    if array.role != "x" or array.values.ndim < 2:
        return
    seen: dict[bytes, int] = {}
    rows = tuple(
        index
        for index, sample in enumerate(array.values)
        if seen.setdefault(sample.tobytes(), index) != index
    )
    if rows and len(rows) < len(array.values) - 1:
        yield array.remark(
            "note", f"an earlier sample once more {array.in_samples(rows)}", rows=rows
        )


def _labels(array: _Array) -> Iterator[Remark]:
    """Yield labels that are no class ids: below zero, or not whole."""
    if array.role != "y" or not array.numeric:
        return
    negative = array.picked(array.samples["min"] < 0)
    fractions = array.picked(~np.asarray(array.samples["integral"], dtype=bool))
    if negative and not fractions:
        says = f"whole numbers below zero {array.in_samples(negative)}: fine for a regression, but"
        yield array.remark(
            "suspicious",
            f"{says} class ids start at 0, and cross-entropy wants [0, 1]",
            rows=negative,
            cause="bad-labels",
        )
    if fractions:
        says = f"not whole numbers {array.in_samples(fractions)}: fine for a regression or for"
        yield array.remark("note", f"{says} probabilities, but no class ids", rows=fractions)
    counts = _class_counts(array)
    if counts is not None and len(counts) == 1 and array.row["size"] > 1:
        yield array.remark("note", f"every label is {next(iter(counts))}")


def _weights(array: _Array) -> Iterator[Remark]:
    if array.role != "sample_weight" or not array.numeric:
        return
    if array.row["negative"]:
        rows = array.picked(array.samples["min"] < 0)
        says = f"negative {array.in_samples(rows)}, down to {array.row['min']:.4g}: those samples"
        yield array.remark(
            "problem",
            f"{says} are trained to be as wrong as they can",
            rows=rows,
            cause="bad-sample-weight",
        )
    if array.row["size"] and array.row["zero"] == array.row["size"]:
        yield array.remark(
            "suspicious",
            "all weights are zero: nothing is learned, and a loss that divides by their sum breaks",
            cause="bad-sample-weight",
        )


_CHECKS: Final[tuple[Callable[[_Array], Iterable[Remark]], ...]] = (
    _nonfinite,
    _range,
    _outliers,
    _labels,
    _weights,
    _zeros,
    _constant,
    _twins,
)


# ---------------------------------------------------------------------- classes


def _class_counts(array: _Array) -> dict[int, int] | None:
    """Return how often each class id (or column of a one-hot row) occurs; None for other labels."""
    if array.role != "y" or not array.numeric or not array.values.size:
        return None
    values = array.values
    bad = array.row["nan"] + array.row["posinf"] + array.row["neginf"]
    if bad or not array.row["integral"] or array.row["absmax"] >= array.LARGEST_ID:
        return None
    if _one_hot(values):
        values = np.argmax(values, axis=-1)
    ids, counts = np.unique(values.astype(np.int64, copy=False), return_counts=True)
    if len(ids) > _Array.MOST_CLASSES:
        return None
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def _one_hot(values: NDArray[Any]) -> bool:
    wide = values.ndim > 1 and values.shape[-1] > 1
    return wide and bool(np.isin(values, (0, 1)).all() and (values.sum(axis=-1) == 1).all())


def _are_classes(array: _Array) -> bool:
    """Say whether labels look like class ids: whole, few, none below -1 (what marks "ignore")."""
    counts = _class_counts(array)
    return counts is not None and min(counts) >= -1 and max(counts) < array.MOST_CLASSES


# ---------------------------------------------------------------------- the whole batch


def _of_all(batch: Batch, arrays: Sequence[_Array]) -> Iterator[Remark]:
    lengths = {
        array.name: _rows.count(array.name, array.values, batch.arrays)
        for array in arrays
        if array.values.ndim
    }
    for name in batch.ragged:
        why = _rows.fault(batch.arrays[name + _rows.VALUES], batch.arrays[name + _rows.SPLITS])
        if why:
            yield Remark(
                "problem",
                name,
                f"{name}: no ragged array: {why}.",
                fix="Save the values and the row_splits of one tf.RaggedTensor.",
            )
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} {count:,}" for name, count in lengths.items())
        yield Remark(
            "problem",
            "",
            f"The arrays differ in their number of samples: {told}.",
            fix="Cut all arrays of a step from the same rows.",
        )
    if not batch.samples:
        yield Remark("problem", "", "The batch holds no samples.", fix="Drop empty batches.")
    if not any(array.role == "y" for array in arrays):
        yield Remark("note", "", "There are no labels (no array y).")
    alone = [array.name for array in arrays if not batch.role(array.name)]
    if alone:
        names = ", ".join(alone)
        yield Remark("note", "", f"Taken for inputs, since their names do not say: {names}.")
