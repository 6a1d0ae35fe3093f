"""Does the same step, from the same start and seeds, give different answers?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.rules._producer import measured, primary_of
from divergence_doctor.rules._rule import Evidence, Example, Finding, Rule, Site
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from divergence_doctor.trace import Trace

#: Where the step failed in one run and lived in another, this is why it failed at all; what the
#: first bad op did is how.
_EVERYTHING: Final = frozenset(
    {
        *("bad-input", "unscaled-input", "bad-labels", "bad-sample-weight", "log-of-zero"),
        *("division-by-zero", "invalid-domain", "exp-overflow", "masked-softmax"),
        *("loss-activation-mismatch", "high-learning-rate", "exploding-gradient"),
        *("exploding-activation", "gradient-singularity", "low-precision-overflow"),
        *("low-precision-underflow", "degenerate-normalization", "execution-mismatch"),
    }
)


@final
@dataclass(frozen=True, slots=True)
class _Run:
    """One run of the untouched steps: loss of each step, and whether it failed."""

    number: int
    watched: bool
    steps: Mapping[int, tuple[float, bool]]
    lived: bool


@final
@dataclass(frozen=True, slots=True)
class _Parting:
    """The first step at which two runs of one kind part."""

    step: int
    first: tuple[float, bool]
    second: tuple[float, bool]

    @property
    def difference(self) -> float:
        """The relative difference of the two losses; infinite where one alone is finite."""
        one, other = self.first[0], self.second[0]
        if not (math.isfinite(one) and math.isfinite(other)):
            return math.inf
        return abs(one - other) / max(abs(one), abs(other), 1e-30)


@final
class NotDeterministic(Rule):
    """The same step twice gives different answers with the random state fixed.

    Recognised where the untouched step, run again in one process from the same weights and slots,
    on the same batch and with the seeds of Python, NumPy, TensorFlow and Keras set alike, has
    another loss; and where it failed in one run and lived in another, that is the diagnosis: no
    change to the step can be proven to mend it.

    Why it diverges: something that neither the checkpoint nor a seed holds decides what the step
    computes. A NumPy generator or a call counter that a layer keeps, `os.urandom`, `secrets`,
    `uuid`, the time, the order of a set of strings, another thread: now and then they give the step
    a value that it does not survive (an empty mask, a scale of 0).

    Evidence: `repeats/loss`, compared bit by bit between runs of one kind (watched or plain: the
    watch may sum a gradient in another order). At the first step at which two differ, a relative
    difference above 3e-4, the square root of float32's roundoff (half of its digits; N. Higham,
    Accuracy and Stability of Numerical Algorithms, section 4.2), or one that failed, is more than
    the order of a parallel sum; less is told, not blamed. `repeats/failed` and `repeats/lived`:
    whether the step failed each time. `unseeded`: attributes and generators that the step left
    changed, and the user's lines that ask for entropy or the time.

    Fix: draw from a generator that Keras saves and seeds: `self.seed_generator =
    keras.random.SeedGenerator(seed)` and `keras.random.normal(shape, seed=self.seed_generator)`; a
    counter is `self.add_weight(shape=(), dtype="int32", trainable=False)`. Then, for the kernels,
    `keras.utils.set_random_seed(0)` and `tf.config.experimental.enable_op_determinism()`.

    Mistaken for: a batch or a checkpoint that "sometimes" fails, a bad GPU. Dropout and its kin are
    not it: their masks follow from the seed (which a `.keras` file does not hold, see fidelity).

    Seen in: keras-team/keras#19322 (a NumPy generator that Keras' seeds do not reach),
    keras-team/keras#6921 (a NaN now and then, whose input cannot be had again),
    keras-team/keras#7578 (parallel sums).
    """

    id = "not-deterministic"
    code = "DD702"
    needs = frozenset({"repeats"})

    #: The step failed in one run and lived in another: that is seen, not inferred.
    DECIDES: ClassVar[float] = 0.85
    #: It gives other answers, and fails each time: told beside the cause.
    BESIDE: ClassVar[float] = 0.6
    #: It differs by no more than the order of a sum explains.
    ROUNDING: ClassVar[float] = 0.3
    #: Half of the digits of float32: sqrt(2**-23).
    TOLERANCE: ClassVar[float] = 3.4e-4

    def examine(self, trace: Trace) -> Finding | None:
        """Return how the runs of the same step differ, or None."""
        if trace.outcome == "healthy":
            return None
        runs = _runs(trace)
        partings = [
            parting
            for i, one in enumerate(runs)
            for other in runs[i + 1 :]
            if one.watched == other.watched and (parting := _parting(one, other)) is not None
        ]
        if not partings:
            return None
        most = max(partings, key=_telling)
        beyond = most.difference > self.TOLERANCE or most.first[1] != most.second[1]
        decides = beyond and _lives_sometimes(runs)
        producer = primary_of(trace)
        at = producer.site if producer is not None else Site(step=trace.failing_step or 0)
        rows = list(trace.table("unseeded").rows())
        return Finding(
            cause=self.id,
            summary=_sentence(most, rows, decides=decides, beyond=beyond),
            confidence=self.DECIDES if decides else (self.BESIDE if beyond else self.ROUNDING),
            stage="execution",
            site=at,
            evidence=tuple(_evidence(runs, most, rows)),
            remedies=_remedies(rows, beyond=beyond),
            explains=_EVERYTHING if decides else frozenset(),
            contributes_only=not decides,
            of_chance=True,
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return a step that fails now and then, one that always does, and a sum's order."""
        return (
            Example("it failed under the watch, and lived when run again", _now_and_then),
            Example("a first step that fails at every other call", _every_other),
            Example("other numbers each time, and it fails each time", _each_time),
            Example("the last bit of a parallel sum", _last_bit),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return runs that agree, and a watch that changes the step."""
        return (
            Example("no run was made again", training_trace),
            Example("all runs agree bit by bit", _agree),
            Example("plain runs agree, the watch alone sums in another order", _watch),
        )


def _runs(trace: Trace) -> list[_Run]:
    rows = list(trace.table("repeats").rows())
    return [
        _Run(
            number,
            bool(own[0]["watched"]),
            {row["step"]: (row["loss"], bool(row["failed"])) for row in own},
            bool(own[0]["lived"]),
        )
        for number in sorted({row["run"] for row in rows})
        for own in [[row for row in rows if row["run"] == number]]
    ]


def _parting(one: _Run, other: _Run) -> _Parting | None:
    for step in sorted(one.steps.keys() & other.steps.keys()):
        (loss, failed), (again, fails) = one.steps[step], other.steps[step]
        same = loss == again or (math.isnan(loss) and math.isnan(again))
        if not same or failed != fails:
            return _Parting(step, one.steps[step], other.steps[step])
    return None


def _telling(parting: _Parting) -> tuple[bool, float, int]:
    return (parting.first[1] != parting.second[1], parting.difference, -parting.step)


def _lives_sometimes(runs: Sequence[_Run]) -> bool:
    """Say whether it failed in one run and lived in another: all steps, or its first step alone.

    That runs of several steps which part early fail at different steps does not count: what
    diverges anyway does so a step sooner or later.
    """
    failed = [run for run in runs if not run.lived]
    longest = max((len(run.steps) for run in failed), default=0)
    whole = any(run.lived and len(run.steps) >= longest for run in runs)
    firsts = {run.steps[0][1] for run in runs if 0 in run.steps and not run.watched}
    return (bool(failed) and whole) or len(firsts) > 1


def _said(side: tuple[float, bool]) -> str:
    loss, failed = side
    if math.isnan(loss):
        return "fails" if failed else "has a loss of NaN"
    return f"has a loss of {loss:.9g}" + (" and fails" if failed else "")


def _sentence(most: _Parting, rows: list[dict[str, Any]], *, decides: bool, beyond: bool) -> str:
    said = (
        f"From the same weights, batch and seeds, step {most.step} {_said(most.first)} in "
        f"one run and {_said(most.second)} in another"
    )
    if not beyond:
        return f"{said}: the order of a parallel sum explains as much."
    said += "; " + _sources(rows)
    return said + (
        ", and it decides whether the step lives." if decides else ", though it fails each time."
    )


def _sources(rows: list[dict[str, Any]]) -> str:
    changed = [row["name"] for row in rows if row["kind"] == "attribute"]
    calls = [f"{row['name']} at {row['source']}" for row in rows if row["kind"] == "call"]
    if changed:
        return f"the step leaves {', '.join(map(repr, changed[:3]))} changed, which no seed holds"
    if calls:
        return f"the step asks {', '.join(calls[:3])}, which no seed holds"
    return "what it draws from is not known"


def _evidence(runs: Sequence[_Run], most: _Parting, rows: list[dict[str, Any]]) -> list[Evidence]:
    return [
        Evidence("runs of the untouched steps", len(runs), "/repeats/run"),
        Evidence("of these failed", sum(not run.lived for run in runs), "/repeats/lived"),
        measured(f"loss of step {most.step} in one run", most.first[0], "/repeats/loss"),
        measured(f"loss of step {most.step} in another", most.second[0], "/repeats/loss"),
        *(Evidence(_claim(row), row["name"], "/unseeded/name") for row in rows[:3]),
    ]


def _claim(row: dict[str, Any]) -> str:
    if row["kind"] == "call":
        return f"asked at {row['source']}"
    went = f", from {row['before']} to {row['after']}" if row["before"] else ""
    return f"changed by one step{went}"


def _remedies(rows: list[dict[str, Any]], *, beyond: bool) -> tuple[str, ...]:
    kernels = (
        "Have every kernel sum in one order: `keras.utils.set_random_seed(0)` and "
        "`tf.config.experimental.enable_op_determinism()`."
    )
    if not beyond:
        return (kernels,)
    named = next((f" in place of {row['name']!r}" for row in rows), "")
    return (
        (
            f"Draw from a generator that Keras saves and seeds{named}: `self.seed_generator = "
            "keras.random.SeedGenerator(seed)`, `keras.random.uniform(shape, "
            "seed=self.seed_generator)`."
        ),
        (
            "Keep counters as state of the model: `self.calls = self.add_weight(shape=(), "
            'dtype="int32", initializer="zeros", trainable=False)`.'
        ),
        "Then guard the op that failed: what is drawn rarely is drawn in the end.",
        kernels,
    )


_Steps = tuple[tuple[float, bool], ...]


def _repeated(*runs: tuple[bool, _Steps, bool]) -> Trace:
    """Return a trace of a step that failed, with runs of it as (watched, steps, lived)."""
    event = SyntheticEvent("RealDiv", layer="mask", phase="forward", outputs=([math.nan],))
    rows = [
        {"run": number, "watched": watched, "step": step, "loss": loss, "failed": failed,
         "lived": lived}
        for number, (watched, steps, lived) in enumerate(runs)
        for step, (loss, failed) in enumerate(steps)
    ]  # fmt: skip
    return training_trace(losses=(0.7, math.nan), events=(event,), rows={"repeats": rows})


_FAILS: Final[_Steps] = ((0.7, False), (math.nan, True))
_FIRST: Final[_Steps] = _FAILS[:1]
_LIVES: Final[_Steps] = ((0.72, False), (0.69, False), (0.66, False))


def _now_and_then() -> Trace:
    again = (False, ((0.75, False),), True)
    return _repeated(
        (True, _FAILS, False), (False, _LIVES, True), again, (False, _FIRST, True),
        (True, _LIVES, True),
    )  # fmt: skip


def _every_other() -> Trace:
    return _repeated(
        (True, _FAILS, False), (False, _FAILS, False), (False, _FIRST, True),
        (False, _FAILS[1:], False),
    )  # fmt: skip


def _each_time() -> Trace:
    other = ((0.72, False), (math.nan, True))
    return _repeated(
        (True, _FAILS, False), (False, other, False), (False, ((0.75, False),), True),
        (False, _FIRST, True),
    )  # fmt: skip


def _last_bit() -> Trace:
    nearly = ((0.70000005, False),)
    return _repeated(
        (True, _FAILS, False), (False, _FAILS, False), (False, nearly, True), (False, _FIRST, True)
    )


def _agree() -> Trace:
    once = (False, _FIRST, True)
    return _repeated((True, _FAILS, False), (False, _FAILS, False), once, once)


def _watch() -> Trace:
    nearly, once = ((0.70000005, False), (math.nan, True)), (False, _FIRST, True)
    return _repeated((True, nearly, False), (False, _FAILS, False), once, once)
