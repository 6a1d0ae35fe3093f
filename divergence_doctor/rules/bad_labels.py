"""Do the labels lie in the domain of the loss that judges them?"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.rules import _batch
from divergence_doctor.rules._links import MOVES, links_of
from divergence_doctor.rules._losses import Bounds, Domain, bounds, domain_of, slack
from divergence_doctor.rules._producer import bad_output, forward_fault
from divergence_doctor.rules._rule import Evidence, Example, Finding, Proof, Rule, Site
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from divergence_doctor.rules._producer import Operand, Producer
    from divergence_doctor.trace import Trace
    from divergence_doctor.trace.table import Table

#: What TensorFlow's CPU kernels say of a label, or of a lookup in the loss that uses one.
_SAID: Final = re.compile(
    r"label value of (?P<label>-?\d+) which is outside the valid range of \[0, ?(?P<classes>\d+)\)"
    r"|indices\[[\d,]*\] = (?P<index>-?\d+) is not in \[0, ?(?P<n>\d+)\)"
)
#: What CTC says of a label that needs more frames than there are, and of which sample it is.
_TOO_LONG: Final = re.compile(r"\(required: \d+, available: \d+\)(?P<row>\d+)")
#: What CTC says of a class that the logits do not have (its own blank is the last of them).
_NO_CLASS: Final = re.compile(
    r"label \(index >= num_classes - 1\).*batch: (?P<row>\d+) num_classes: \d+"
)
#: Ops that raise because of a label and of nothing else.
_LABEL_OPS: Final = frozenset({"SparseSoftmaxCrossEntropyWithLogits", "CTCLoss", "CTCLossV2"})
#: Ops of a custom loss that are defined from zero up, and of a label ask just that.
_FROM_ZERO_UP: Final = frozenset({"Log", "Sqrt"})
#: Ops that may add a constant to labels on their way there.
_SUMS: Final = frozenset({"AddV2", "Add", "Sub", "BiasAdd"})
#: Rounding of a sum in float32, as a part of the largest label.
_ROUNDING: Final = 1e-5
#: What a NaN label becomes when a float is cast to int64 on x86.
_CAST_NAN: Final = -(2**63)


@dataclass(frozen=True, slots=True)
class _Labels:
    """One label array and the loss that judges it: what the checks look at."""

    trace: Trace
    row: dict[str, Any]
    target: dict[str, Any]
    samples: Table
    domain: Domain = field(default_factory=lambda: Domain("any"))

    @property
    def name(self) -> str:
        return str(self.row["name"])

    @property
    def loss(self) -> str:
        return str(self.target["loss"])

    @property
    def range(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the smallest and largest label of each sample, the ignored one left out.

        Where nothing but the ignored label is left, NaN.
        """
        least, most = self.samples["min"], self.samples["max"]
        if self.ignored is None:
            return least, most
        if "second_min" not in self.samples:
            # A trace of an older version: what is ignored may hide what is not.
            hidden = least == self.ignored, most == self.ignored
            return np.where(hidden[0], np.nan, least), np.where(hidden[1], np.nan, most)
        within = np.where(most == least, np.nan, self.samples["second_min"])
        below = np.where(most == least, np.nan, self.samples["second_max"])
        return (
            np.where(least == self.ignored, within, least),
            np.where(most == self.ignored, below, most),
        )

    @property
    def outside(self) -> float:
        """Return how much a label outside the domain explains, by what the loss does with it."""
        return {
            "unbounded": BadLabels.OUTSIDE,
            "scaled": BadLabels.SUSPECT,
            "tamed": BadLabels.TAMED,
        }[self.domain.outside]

    @property
    def fractional(self) -> NDArray[Any]:
        """Return in which samples there are labels that are not whole."""
        return ~np.asarray(self.samples["integral"], dtype=bool)

    @property
    def ignored(self) -> int | None:
        """Return the label that the loss ignores; the config tells an ignored -1 from none."""
        config = _batch.as_json(self.target["config"])
        ignored = config.get("ignore_class", self.target["ignore_class"])
        if "ignore_class" not in config and ignored == -1:
            return None
        return None if ignored is None else int(ignored)


@dataclass(frozen=True, slots=True)
class _Problem:
    """One thing that is wrong with the labels.

    Attributes:
        array: name of the label array.
        says: one sentence with the figures, without its full stop.
        confidence: 0..1.
        rows: samples it holds for.
        total: samples in all.
        evidence: the figure that it rests on.
        remedy: what to change.
        bounds: the labels that the loss allows.
        step: the row of the step that raised because of it, or None.
        finite: the labels are finite: the first bad value is made by an op.
    """

    array: str
    says: str
    confidence: float
    rows: tuple[int, ...]
    total: int
    evidence: Evidence
    remedy: str
    bounds: Bounds = field(default_factory=Bounds)
    step: dict[str, Any] | None = None
    finite: bool = True


@final
class BadLabels(Rule):
    """The labels are NaN or Inf, or outside the domain of the loss that judges them.

    NaN and Inf are recognised whatever the loss; the rest is judged for Keras' own losses, whose
    domains are known: class ids that are negative, not below the number of classes or not whole;
    probabilities outside [0, 1]; counts below zero; label sequences longer than the time axis. A
    custom loss is judged by its ops: labels below zero, in less than half of the samples, are bad
    where it takes their log or their square root as they are, or with a constant added. A step
    that raised in a sparse cross-entropy names its label. Label smoothing, an ignored class and
    the casting of class ids are taken into account.

    Why it diverges: a NaN target makes its loss NaN, and weighting it with 0 does not help
    (0 * NaN = NaN). A class id out of range raises on a CPU and gives a NaN loss on GPU and XLA.
    Binary cross-entropy of a target outside [0, 1] has no lower bound: the loss turns negative and
    falls without end, the weights grow, and nothing is ever NaN until they overflow.

    Evidence: `batch/nan`, `batch/posinf`, `batch/neginf`, `cells`; `samples/min`, `samples/max` and
    `samples/integral` of the arrays of role `y` against `targets/loss`, `targets/classes` and
    `targets/ignore_class`; `steps/raised`. The domains are those of the losses' formulas in
    keras.losses, and what each does outside of it: no lower bound, scaled by the label, or clipped
    and cast (MeanSquaredLogarithmicError, KLDivergence, 1.5 as a class id; Keras 3.15), which alone
    stays below 0.5. For CTC `samples/repeats` and `samples/inner_zeros` against the time axis.

    Fix: remap the labels, e.g. `y = (y > 0).astype("float32")` for {-1, 1} or {0, 255};
    `keras.layers.Dense(int(y.max()) + 1)` for the last layer;
    `keras.losses.SparseCategoricalCrossentropy(ignore_class=255)` for a void class.

    Mistaken for: a learning rate that is too high (the loss falls fast, then NaN), log of zero in
    the loss, a broken GPU (only a CPU raises), and progress: a negative loss that keeps falling.

    Seen in: keras-team/keras#13926 and tensorflow/tensorflow#71638 (targets outside [0, 1]),
    tensorflow/tensorflow#8484 (class id beyond the last layer), tensorflow/models#3739 (palette
    value 128 as class id), keras-team/keras#1628 (NaN marks a missing target).
    """

    id = "bad-labels"
    code = "DD103"
    needs = frozenset({"batch"})
    explains = _batch.DOWNSTREAM | {"loss-activation-mismatch", "unscaled-input"}

    #: The kernel's own words.
    RAISED: ClassVar[float] = 0.98
    #: A class id out of range in a sparse cross-entropy: NaN on GPU and XLA, by its documentation.
    OUT_OF_RANGE: ClassVar[float] = 0.95
    #: A target outside the domain of an unbounded loss, and a loss below the bound it should have.
    UNBOUNDED: ClassVar[float] = 0.92
    #: The same without that sign.
    OUTSIDE: ClassVar[float] = 0.7
    #: The loss is bounded or scaled, not broken, by such a target: a trial has to speak for it.
    SUSPECT: ClassVar[float] = 0.55
    #: Keras clips or casts such targets; they are wrong, and the step stays finite.
    TAMED: ClassVar[float] = 0.35
    #: The first replayed step broke in its forward pass, where no label is used.
    TOO_LATE: ClassVar[float] = 0.3
    #: Whatever the labels, a healthy run has no cause.
    HARMLESS: ClassVar[float] = 0.2

    def examine(self, trace: Trace) -> Finding | None:
        """Return what is wrong with the labels, the gravest first, or None."""
        problems = sorted(
            (
                *(*_raised(trace), *_infeasible(trace), *_nonfinite(trace)),
                *(*_domains(trace), *_refused_by_op(trace)),
            ),
            key=lambda problem: -problem.confidence,
        )
        if not problems:
            return None
        worst = problems[0]
        healthy = trace.outcome == "healthy"
        told = "; the run is healthy: told, not blamed" if healthy and worst.finite else ""
        return Finding(
            cause=self.id,
            summary=f"{worst.says}{told}.",
            confidence=min(worst.confidence, self.HARMLESS) if healthy else worst.confidence,
            stage="data",
            site=_site(trace, worst),
            samples=worst.rows if len(worst.rows) < worst.total else (),
            each_wrong=worst.finite and worst.confidence > self.TAMED,
            evidence=tuple(problem.evidence for problem in problems),
            remedies=tuple(dict.fromkeys([*(problem.remedy for problem in problems), _CHECK])),
            proofs=tuple(_proofs(worst)),
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return a NaN target, a class id too large, a raised step, and -1/+1 into BCE."""
        missing = np.ones((8, 3))
        missing[2, 1] = np.nan
        ids = np.array([0, 1, 2, 3, 4, 5, 0, 1])
        signs = np.array([-1.0, 1.0] * 4)[:, None]
        return (
            Example(
                "a NaN marks a missing target",
                lambda: training_trace(
                    y=missing,
                    losses=(float("nan"),),
                    events=(
                        SyntheticEvent(
                            "SquaredDifference", produced=False, origin="batch", origin_name="y"
                        ),
                    ),
                ),
            ),
            Example(
                "class id 5 of 5 classes, NaN on a GPU",
                lambda: training_trace(
                    y=ids,
                    loss_name="SparseCategoricalCrossentropy",
                    classes=5,
                    losses=(float("nan"),),
                    events=(SyntheticEvent("SparseSoftmaxCrossEntropyWithLogits"),),
                ),
            ),
            Example(
                "the same on a CPU: the step raises",
                lambda: training_trace(
                    y=ids,
                    loss_name="SparseCategoricalCrossentropy",
                    classes=5,
                    outcome="diverged",
                    raised="Received a label value of 5 which is outside the valid range of [0, 5)",
                    raised_type="InvalidArgumentError",
                    raised_op="SparseSoftmaxCrossEntropyWithLogits",
                ),
            ),
            Example(
                "-1 and +1 into binary cross-entropy: the loss falls without end",
                lambda: training_trace(
                    y=signs,
                    loss_name="BinaryCrossentropy",
                    losses=(0.44, -3.0, -80.0),
                    outcome="diverged",
                ),
            ),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return labels in the domain, an ignored class, and a regression below zero."""
        ids = np.array([0, 1, 2, 3, 4, 4, 0, 1])
        return (
            Example(
                "class ids within the classes",
                lambda: training_trace(y=ids, loss_name="SparseCategoricalCrossentropy", classes=5),
            ),
            Example(
                "targets below zero are fine for a squared error, whatever broke the step",
                lambda: training_trace(
                    y=np.linspace(-1, 1, 8)[:, None],
                    losses=(float("nan"),),
                    events=(SyntheticEvent("Sqrt"),),
                ),
            ),
            Example(
                "0 and 1 into binary cross-entropy, though the step ran away",
                lambda: training_trace(
                    y=np.array([0.0, 1.0] * 4)[:, None],
                    loss_name="BinaryCrossentropy",
                    losses=(0.7, 90.0, float("inf")),
                ),
            ),
        )


_CHECK: Final = (
    "Check the labels where they are loaded, each with its own message: "
    '`assert np.isfinite(y).all(), "NaN"; assert (y >= 0).all(), "negative"; '
    'assert (y < num_classes).all(), "beyond the classes"; '
    'assert (y == y.astype(int)).all(), "not integers"`; inside tf.data: '
    "`tf.debugging.assert_less(y, num_classes)`."
)
_DROP: Final = (
    "Drop the samples whose target is missing: `good = np.isfinite(y).reshape(len(y), -1)"
    ".all(axis=1); x, y = x[good], y[good]`. A weight or a mask of 0 does not help: 0 * NaN = NaN. "
    "In a custom loss select before computing: "
    "`ok = tf.math.is_finite(y); y = tf.where(ok, y, tf.zeros_like(y))`, then mask the result."
)
_REMAP: Final = (
    "Remap the labels to 0..classes-1: `classes, y = np.unique(y, return_inverse=True)`, on the "
    "whole training set, once."
)
_ENLARGE: Final = (
    "Give the last layer one unit per class: `keras.layers.Dense(int(y_train.max()) + 1)`; leave a "
    "void class out with `keras.losses.SparseCategoricalCrossentropy(ignore_class=255)`."
)
_REGRESSION: Final = (
    'Fractions are no class ids: for regression use `loss="mean_squared_error"`, for '
    'probabilities per class `loss="categorical_crossentropy"`.'
)
_TO_UNIT: Final = (
    'Bring the targets into [0, 1]: `y = (y > 0).astype("float32")` for {-1, 1} and {0, 255}, '
    '`y / 255.0` for grey values; for anything else use `loss="mean_squared_error"`.'
)
_ONE_CLASS: Final = (
    'For several classes per sample use a sigmoid output with `loss="binary_crossentropy"`; for '
    'class ids use `loss="sparse_categorical_crossentropy"`.'
)
_COUNTS: Final = (
    "This loss is for counts or amounts from zero up: look for a difference or a standardised "
    'target, and use `loss="mean_squared_error"` or `"huber"` for those.'
)
_BELOW_ZERO: Final = (
    "The other labels are proper ones: look for what made these negative (a missing value coded "
    "as -1 or -999, an interpolation, noise that was added) and drop or mend them: `good = "
    "(y >= 0).reshape(len(y), -1).all(axis=1); x, y = x[good], y[good]`."
)
_SIGNS: Final = "Hinge losses want -1 and 1 (0 and 1 are converted): `y = np.where(y > 0, 1, -1)`."
_NO_ZEROS: Final = (
    'A percentage of zero has no meaning: drop those samples or use `loss="mean_absolute_error"`.'
)
_PADDING: Final = (
    "Pad the labels with 0, which is Keras' blank, not with -1, and shift the characters to 1 and "
    "up: `y = np.where(y < 0, 0, y + 1)`."
)
_CHARACTERS: Final = (
    "Give the last layer one unit per character and one for the blank, and number the characters "
    "from 1: `keras.layers.Dense(len(characters) + 1)`."
)
_CTC: Final = (
    "The time axis must be at least as long as the label, plus one step per repeated character: "
    "pool less, use wider inputs, or filter the long labels."
)


def _raised(trace: Trace) -> Iterator[_Problem]:
    """Yield the label that made the step raise."""
    step = _batch.raised(trace)
    if step is None:
        return
    said = _SAID.search(step["raised"])
    gathered = said is not None and said["index"] is not None
    if gathered and step["raised_phase"] != "loss":
        return
    if said is None and step["raised_op"] not in _LABEL_OPS:
        return
    where = step["raised_op"] or "the loss"
    if said is None:
        told = _TOO_LONG.search(step["raised"])
        beyond = _NO_CLASS.search(step["raised"])
        named = told or beyond
        refused: tuple[int, ...] = (int(named["row"]),) if named is not None else ()
        words = step["raised"] if told is None else step["raised"][: told.start("row")]
        spelt = where.startswith("CTC") and beyond is None
        yield _Problem(
            array=next(iter(_batch.arrays(trace, "y")["name"]), "y"),
            says=f"{where} refused the labels{_of(refused)}: {_one_line(words)}",
            confidence=BadLabels.RAISED,
            rows=refused,
            total=len(set(trace.table("samples")["sample"].tolist())),
            evidence=Evidence("what the op said", where, "/steps/raised"),
            remedy=_CHARACTERS if beyond else _CTC if spelt else _REMAP,
            bounds=Bounds(steps=_time_axis(trace) if spelt else None),
            step=step,
        )
        return
    value, classes = int(said["label"] or said["index"]), int(said["classes"] or said["n"])
    name, rows, total = _holders(trace, value, classes)
    what = "a NaN cast to an integer" if value == _CAST_NAN else _kind_of(value, classes)
    yield _Problem(
        array=name,
        says=f"{name} holds label {value}{_of(rows)}, {what}; {where} raised",
        confidence=BadLabels.RAISED,
        rows=rows,
        total=total,
        evidence=Evidence("label that the op refused", value, "/steps/raised"),
        remedy=_DROP if value == _CAST_NAN else _for_class(value, classes),
        bounds=Bounds(0, classes - 1, integral=True),
        step=step,
        finite=value != _CAST_NAN,
    )


def _infeasible(trace: Trace) -> Iterator[_Problem]:
    """Yield labels that no path through the frames spells: CTC's loss of them is infinite.

    That of a label which can be spelt is not, unless logits differ by 1e37.
    """
    producer = forward_fault(trace)
    if producer is None or not producer.op_type.startswith("CTCLoss") or producer.derivative:
        return
    if not producer.inf or any(operand.nonfinite for operand in producer.all("input")):
        return
    yield _Problem(
        array=next(iter(_batch.arrays(trace, "y")["name"]), "y"),
        says=f"{producer.op_type} finds no way to spell the labels{_of(producer.samples)} in the "
        "frames that there are, and gives an infinite loss",
        confidence=BadLabels.UNBOUNDED,
        rows=producer.samples,
        total=producer.batch_size,
        evidence=bad_output(producer),
        remedy=_CTC,
        bounds=Bounds(steps=_time_axis(trace)),
    )


def _refused_by_op(trace: Trace) -> Iterator[_Problem]:
    """Yield negative labels of a few samples that a custom loss took the log or the root of.

    Where most samples hold some, they are what the labels are like, and the op is out of place.
    A label of zero is a proper one, a probability or a count, that the op has to be kept from.
    """
    producer = forward_fault(trace)
    if producer is None or producer.phase != "loss" or producer.op_type not in _FROM_ZERO_UP:
        return
    fed = producer.input(0)
    if fed is None or fed.nonfinite or not fed.negative:
        return
    given, added = _labels_given(trace, producer, fed)
    for row in _batch.arrays(trace, "y").rows():
        samples = _batch.of_array(trace, "samples", row)
        rows = _batch.picked(samples, samples["min"] < -added)
        if row["name"] != given or not 0 < 2 * len(rows) < len(samples):
            continue
        takes = f"takes them with {added:g} added" if added else "takes them as they are"
        yield _Problem(
            array=row["name"],
            says=f"{row['name']} holds labels{_of(rows)} that are below {_below(added)} "
            f"({row['min']:g}), and {producer.op_type} {producer.place} {takes}",
            confidence=BadLabels.OUTSIDE,
            rows=rows,
            total=len(samples),
            evidence=Evidence(f"negative labels given to {producer.op_type}", fed.negative,
                              "/operands/negative"),
            remedy=_BELOW_ZERO.replace("y >= 0", f"y > {_below(added)}") if added else _BELOW_ZERO,
        )  # fmt: skip


def _labels_given(trace: Trace, producer: Producer, fed: Operand) -> tuple[str, float]:
    """Return the array of labels that an op was given, and what had been added to each of them.

    Had more been added than a constant, a prediction say, then the smallest, the largest and the
    mean label would not have moved by the same. The name is empty where it was something else.
    """
    if fed.origin == "batch":
        return fed.origin_name, 0.0
    links = links_of(trace, producer)
    if len(links) < 2 or links[-1].what != "batch":
        return "", 0.0
    if not {link.name for link in links[:-1]} <= _SUMS | MOVES:
        return "", 0.0
    first, last = links[0], links[-1]
    moved = (first.low - last.low, first.high - last.high, first.mean - last.mean)
    least = _ROUNDING * max(abs(last.low), abs(last.high), 1.0)
    constant = all(math.isfinite(by) for by in moved) and max(moved) - min(moved) <= least
    # The largest label is nearest to zero where the smallest is a code for a missing one.
    return (last.name, round(moved[1], 6)) if constant else ("", 0.0)


def _below(added: float) -> str:
    """Return the least label that is proper, in words."""
    return f"{-added:g}" if added else "zero"


def _for_class(value: int, classes: int) -> str:
    """Return the remedy for a class id out of range: one far beyond was no class id to begin with.

    A palette's 128 or 255 is to be remapped; units up to there would never be trained.
    """
    return _ENLARGE if 0 <= value < 2 * max(classes, 2) else _REMAP


def _one_line(message: str) -> str:
    return " ".join(message.split())[:200].rstrip(".")


def _kind_of(value: int, classes: int) -> str:
    allowed = f"only 0 to {classes - 1} are classes"
    return f"negative ({allowed})" if value < 0 else f"beyond the {classes} classes ({allowed})"


def _holders(trace: Trace, value: int, classes: int) -> tuple[str, tuple[int, ...], int]:
    """Return the label array that holds values out of range, its bad samples and all samples."""
    targets = trace.table("targets")
    sparse = {
        target["array"]
        for target in targets.rows()
        if (domain := domain_of(target)) is not None and domain.meaning == "ids"
    }
    # A continuous target may well hold the number too: first those that the op can have been given.
    rows = sorted(_batch.arrays(trace, "y").rows(), key=lambda row: row["name"] not in sparse)
    for row in rows:
        samples = _batch.of_array(trace, "samples", row)
        labels = [
            _Labels(trace, row, target, samples)
            for target in targets.select(array=row["name"]).rows()
        ]
        least, most = labels[0].range if labels else (samples["min"], samples["max"])
        bad = (most >= classes) | (least < 0) | (samples["nonfinite"] > 0)
        fits = row["nan"] > 0 if value == _CAST_NAN else row["min"] <= value <= row["max"]
        if fits and np.any(bad):
            return row["name"], _batch.picked(samples, bad), len(samples)
    return (rows[0]["name"] if rows else "y"), (), 0


def _nonfinite(trace: Trace) -> Iterator[_Problem]:
    """Yield NaN and Inf in the labels, which no loss takes."""
    bad = _batch.bad_arrays(trace, "y")
    judges = {row["array"]: row for row in trace.table("targets").rows()}
    for array in bad:
        how = _batch.travel(trace, [array.name])
        first = f", first at [{array.first}]" if array.first else ""
        rows = f"{len(array.rows)} of {array.samples} samples"
        yield _Problem(
            array=array.name,
            says=f"{array.name} holds {array.counts} among {array.size:,} labels in {rows}{first}; "
            f"{_batch.TRAVELLED[how]}",
            confidence=_batch.CONFIDENCE[how],
            rows=array.rows,
            total=array.samples,
            evidence=Evidence(f"NaN and Inf in {array.name}", array.nan + array.inf, "/batch"),
            remedy=_DROP,
            bounds=bounds(judges.get(array.name)),
            finite=False,
        )


def _domains(trace: Trace) -> Iterator[_Problem]:
    """Yield what lies outside the domain of a built-in loss."""
    targets = trace.table("targets")
    for row in _batch.arrays(trace, "y").rows():
        for target in targets.select(array=row["name"]).rows():
            domain = domain_of(target)
            check = _CHECKS.get(domain.meaning) if domain is not None else None
            if check is not None and domain is not None:
                samples = _batch.of_array(trace, "samples", row)
                yield from check(_Labels(trace, row, target, samples, domain))


def _ids(labels: _Labels) -> Iterator[_Problem]:
    # They are cast to integers, towards 0: -0.5 is class 0, and 4.5 is class 4.
    least, most = (np.trunc(end) for end in labels.range)
    classes = labels.target["classes"]
    ranged = f"only 0 to {classes - 1} are classes" if classes > 0 else "class ids start at 0"
    yield from _outside(
        labels,
        least < 0,
        f"negative ({labels.row['min']:g}): {ranged}",
        BadLabels.OUT_OF_RANGE,
        _REMAP,
    )
    if classes > 0 and np.any(most >= classes):
        yield from _outside(
            labels,
            most >= classes,
            f"beyond the {classes} classes ({labels.row['max']:g}): {ranged}",
            BadLabels.OUT_OF_RANGE,
            _for_class(int(np.nanmax(most)), classes),
        )
    yield from _outside(
        labels,
        labels.fractional,
        "not integers: the loss cuts 1.5 down to 1 without a word",
        BadLabels.TAMED,
        _REGRESSION,
    )


def _probability(labels: _Labels) -> Iterator[_Problem]:
    sure = labels.outside
    sign = ""
    if labels.domain.outside == "unbounded" and np.any(_batch.losses(labels.trace) < 0):
        sure = BadLabels.UNBOUNDED
        sign = f", and the loss, which cannot fall below 0 with proper labels, is at {_low(labels)}"
    beyond = slack(_batch.as_json(labels.target["config"]), _smoothed_over(labels))
    yield from _outside(
        labels,
        (labels.samples["min"] < -beyond) | (labels.samples["max"] > 1 + beyond),
        f"outside [0, 1] (from {labels.row['min']:g} to {labels.row['max']:g}){sign}",
        sure,
        _TO_UNIT,
    )
    if labels.domain.meaning == "one-hot":
        yield from _one_hot(labels)


def _smoothed_over(labels: _Labels) -> int:
    """Return over how many classes label smoothing spreads its share."""
    return int(labels.target["classes"]) if labels.domain.meaning == "one-hot" else 2


def _low(labels: _Labels) -> str:
    return f"{np.nanmin(_batch.losses(labels.trace)):.3g}"


def _one_hot(labels: _Labels) -> Iterator[_Problem]:
    """Yield rows of zeros and ones in which not exactly one entry per place is set."""
    samples, classes = labels.samples, labels.target["classes"]
    if classes < 2 or np.any(samples["size"] % classes):
        return
    binary = samples["integral"] & (samples["min"] >= 0) & (samples["max"] <= 1)
    binary &= samples["nonfinite"] == 0
    hot = samples["size"] - samples["zero"]
    yield from _outside(
        labels,
        binary & (hot != samples["size"] // classes),
        "not one-hot: their rows do not sum to 1",
        BadLabels.TAMED,
        _ONE_CLASS,
    )


def _counts(labels: _Labels) -> Iterator[_Problem]:
    sure = labels.outside
    if sure > BadLabels.TAMED and np.any(_batch.losses(labels.trace) < 0):
        sure = BadLabels.OUTSIDE
    yield from _outside(
        labels, labels.samples["min"] < 0, f"below zero ({labels.row['min']:g})", sure, _COUNTS
    )


def _signs(labels: _Labels) -> Iterator[_Problem]:
    samples = labels.samples
    yield from _outside(
        labels,
        (samples["min"] < -1) | (samples["max"] > 1) | labels.fractional,
        f"not -1 or 1 (from {labels.row['min']:g} to {labels.row['max']:g})",
        labels.outside if labels.row["absmax"] > 1 else BadLabels.TAMED,
        _SIGNS,
    )


def _nonzero(labels: _Labels) -> Iterator[_Problem]:
    yield from _outside(
        labels,
        labels.samples["zero"] > 0,
        "zero, and the loss divides by them (by 1e-7 at least)",
        labels.outside,
        _NO_ZEROS,
    )


def _sequence(labels: _Labels) -> Iterator[_Problem]:
    """Yield label sequences for which the time axis has no path, and ids that are none.

    Keras' CTC takes 0 for the blank and for padding: as many ids as are not 0 are read, from the
    first on. Two equal ones in a row need a blank between them.
    """
    samples = labels.samples
    steps = _time_axis(labels.trace)
    if steps is not None:
        repeats = np.maximum(samples["repeats"], 0) if "repeats" in samples else 0
        needed = samples["size"] - samples["zero"] + repeats
        longest = int(needed.max()) if len(needed) else 0
        yield from _outside(
            labels,
            needed > steps,
            f"infeasible: up to {longest} steps are needed, one per character and one for the "
            f"blank between equal ones, but the time axis has only {steps} steps",
            BadLabels.OUTSIDE,
            _CTC,
            steps=steps,
        )
    classes = labels.target["classes"]
    yield from _outside(
        labels,
        samples["min"] < 0,
        f"negative ({labels.row['min']:g}): 0 is the blank and the padding, classes start at 1",
        labels.outside,
        _PADDING,
    )
    if classes > 1:
        yield from _outside(
            labels,
            samples["max"] >= classes,
            f"beyond the {classes} classes ({labels.row['max']:g}): only 1 to {classes - 1} are "
            "characters",
            labels.outside,
            _CHARACTERS,
        )
    if "inner_zeros" in samples:
        yield from _outside(
            labels,
            samples["inner_zeros"] > 0,
            "cut short: 0 is the blank, and as many ids as are not 0 are read from the first on",
            BadLabels.TAMED,
            _CHARACTERS,
        )
    yield from _outside(
        labels,
        labels.fractional,
        "not integers: the loss cuts 1.5 down to 1 without a word",
        BadLabels.TAMED,
        _REMAP,
    )


def _time_axis(trace: Trace) -> int | None:
    """Return the steps of the last output that has a batch, a time and a class axis."""
    seen = trace.table("activations").select(role="output")
    shapes = [str(shape).split("x") for shape in seen["shape"] if str(shape).count("x") == 2]
    return int(shapes[-1][1]) if shapes else None


_CHECKS: Final[dict[str, Callable[[_Labels], Iterator[_Problem]]]] = {
    "ids": _ids,
    "probability": _probability,
    "one-hot": _probability,
    "counts": _counts,
    "signs": _signs,
    "nonzero": _nonzero,
    "sequence": _sequence,
}


def _outside(
    labels: _Labels,
    mask: Any,
    what: str,
    confidence: float,
    remedy: str,
    *,
    steps: int | None = None,
) -> Iterator[_Problem]:
    """Yield one problem when a mask over the samples holds anywhere."""
    rows = _batch.picked(labels.samples, np.asarray(mask, dtype=bool))
    if not rows:
        return
    of = _of(rows) if len(rows) < len(labels.samples) else " in every sample"
    yield _Problem(
        array=labels.name,
        says=f"{labels.name} holds labels{of} that are {what}; the loss is {labels.loss}",
        confidence=min(confidence, BadLabels.TOO_LATE) if _too_late(labels.trace) else confidence,
        rows=rows,
        total=len(labels.samples),
        evidence=Evidence(f"samples in which {labels.name} is {what}", len(rows), "/samples"),
        remedy=remedy,
        bounds=replace(bounds(labels.target), steps=steps),
    )


def _too_late(trace: Trace) -> bool:
    """Say whether the first step broke in its forward pass, before any label was used."""
    event = _batch.primary(trace)
    return event is not None and event["step"] == 0 and event["phase"] == "forward"


def _of(rows: tuple[int, ...]) -> str:
    return f" in {_batch.named(rows)}" if rows else ""


def _site(trace: Trace, worst: _Problem) -> Site:
    """Return the place of the first non-finite value: the data itself, or an op."""
    if worst.step is not None:
        return _batch.place_raised(worst.step)
    return _batch.place(trace) if worst.finite else Site(step=trace.failing_step or 0)


def _proofs(worst: _Problem) -> Iterator[Proof]:
    if 0 < len(worst.rows) < worst.total / 2:
        yield Proof("drop-samples", {"samples": list(worst.rows)})
    allowed = worst.bounds
    if allowed != Bounds() or not worst.finite:
        yield Proof("valid-labels", {"array": worst.array, **allowed.parameters()})
