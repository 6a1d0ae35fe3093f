"""Does the recorded run go the same way again? From the snapshot, batch by batch, to the bit.

The steps run as they were trained (eagerly, as a graph, compiled by XLA), unwatched, and the loss
of each is laid beside the one that was logged. After each step a cheap look at the weights tells
which step was the first to go wrong: often one before the loss showed it. That is the one to watch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor.checkpoints import innermost, optimizers_of
from divergence_doctor.errors import DoctorError
from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.engine import learning_rate_of, loss_scale_of, run_step
from divergence_doctor.replay.execution import bad_variable, compiled
from divergence_doctor.replay.feeding import match, tensors
from divergence_doctor.replay.outcome import SMALL, UNDECIDED
from divergence_doctor.replay.state import Snapshot, slot_variables
from divergence_doctor.rules import may_be_negative

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from divergence_doctor.checkpoints import RecordedStep, Recording
    from divergence_doctor.replay.generators import Generators

#: Steps before the failing one whose gradients and layers are measured.
LEADING: Final = 8
#: Below zero by rounding, as a part of the largest element, as the flight recorder sees it.
_ROUNDING: Final = 1e-6


@final
@dataclass(frozen=True, slots=True)
class Rolled:
    """What one step came to when it ran again as it was trained.

    Attributes:
        step: training step.
        loss: the loss as Keras logs it (a running mean within ``fit``), in the dtype in which it
            was logged; None where the step logged none.
        step_loss: the loss of the step alone; NaN where it cannot be told.
        learning_rate, loss_scale: before the step; NaN when unknown.
        bad_variable: the first variable that is not finite, or cannot be, after it; or empty.
        raised: the message of what it raised; empty if nothing.
        raised_type: the class of that.
    """

    step: int
    loss: Any
    step_loss: float
    learning_rate: float
    loss_scale: float
    bad_variable: str = ""
    raised: str = ""
    raised_type: str = ""

    @property
    def own_loss(self) -> float:
        """The loss of the step, or the mean that was logged; NaN where there is none."""
        if math.isfinite(self.step_loss) or self.loss is None:
            return self.step_loss
        return float(self.loss)

    @property
    def failure(self) -> str:
        """What is wrong after it, or empty."""
        if self.raised:
            return f"raises {self.raised_type}"
        if self.loss is not None and not math.isfinite(self.loss):
            return f"has a loss of {float(self.loss)}"
        if self.bad_variable:
            told = "" if self.loss is None else f" (its loss is finite, {float(self.loss):.4g})"
            return f"leaves {self.bad_variable} not finite or impossible{told}"
        return ""


@final
@dataclass(frozen=True, slots=True)
class Equality:
    """How the losses compare with those that were recorded.

    Attributes:
        compared: steps for which both are known.
        equal: those that are equal to the bit.
        step: the first step that differs; -1 where none does.
        recorded, rolled: its two losses.
        ulp: distance of the two in units in the last place; -1 where one is not finite.
        largest: largest relative difference of finite losses.
    """

    compared: int
    equal: int
    step: int = -1
    recorded: float = math.nan
    rolled: float = math.nan
    ulp: int = -1
    largest: float = 0.0

    @property
    def sentence(self) -> str:
        """The comparison in words."""
        if not self.compared:
            return "no loss was recorded to compare with"
        if self.equal == self.compared:
            return f"{self.equal} of {self.compared} losses equal to the bit"
        how = (
            f"by {self.ulp:,} ulp ({self.recorded:.9g} recorded, {self.rolled:.9g} here)"
            if self.ulp >= 0
            else f"{self.recorded:.9g} recorded, {self.rolled:.9g} here"
        )
        return (
            f"{self.equal} of {self.compared} losses equal to the bit; the first that differs is"
            f" that of training step {self.step}, {how}"
        )


def compare(recording: Recording, rolled: Sequence[Rolled]) -> Equality:
    """Compare the losses of rolled steps with the recorded ones, bit by bit."""
    compared = equal = 0
    first: tuple[int, float, float, int] | None = None
    largest = 0.0
    for step in rolled:
        was = recording.logged(step.step)
        if step.loss is None or was is None:
            continue
        compared += 1
        apart = ulps(was, step.loss)
        if apart == 0:
            equal += 1
            continue
        now = float(step.loss)
        first = first or (step.step, was, now, apart)
        if math.isfinite(was) and math.isfinite(now):
            largest = max(largest, abs(was - now) / max(abs(was), abs(now)))
    return Equality(compared, equal, *(first or (-1, math.nan, math.nan, -1)), largest=largest)


def ulps(recorded: float, rolled: Any) -> int:
    """Return how many numbers of the rolled one's dtype lie between the two; 0 when equal.

    Two NaN are equal, of whatever payload. -1 where only one of the two is a number.
    """
    value = np.asarray(rolled)
    with np.errstate(all="ignore"):
        other = np.asarray(recorded, dtype=np.float64).astype(value.dtype)
    if np.isnan(other) or np.isnan(value):
        return 0 if np.isnan(other) and np.isnan(value) else -1
    if np.isinf(other) or np.isinf(value):
        return 0 if recorded == float(value) else -1
    apart = abs(_place(other) - _place(value))
    # What the dtype cannot hold was logged in another one.
    return apart if float(other) == recorded else max(apart, 1)


def _place(value: Any) -> int:
    """Return the place of a number in the order of all numbers of its dtype."""
    bits = int(value.view(f"i{value.dtype.itemsize}"))
    return bits if bits >= 0 else -(bits & ((1 << (8 * value.dtype.itemsize - 1)) - 1))


@final
@dataclass(frozen=True, slots=True)
class Course:
    """How the recorded run went when it was gone through again.

    Attributes:
        steps: the steps that ran.
        equality: how their losses compare with those recorded.
        mode: ``eager``, ``graph`` or ``xla``.
        first_bad: the first training step that went wrong; -1 where none did.
        why: what is wrong after it.
        watched: the training steps to be watched, the failing one last.
    """

    steps: tuple[Rolled, ...]
    equality: Equality
    mode: str
    first_bad: int
    why: str
    watched: tuple[int, ...]


@final
class Rolling:
    """The recorded steps, ready to be run again from the snapshot.

    Args:
        model: the model as the bundle was opened: in the state from before ``recording.snapshot``.
        recording: what was recorded.
        generators: the random state from before the snapshot's step.
        progress: told the training step that runs.
    """

    def __init__(
        self,
        model: Any,
        recording: Recording,
        generators: Generators,
        progress: Callable[[str], None] = lambda _detail: None,
    ) -> None:
        self.model = model
        self._recording = recording
        self._generators = generators
        self._progress = progress
        self._start = Snapshot(model)
        self._function: Callable[[Any], Any] | None = None
        #: What unseeded ``keras.random`` calls drew from when the step was traced.
        self._drawn_from: Any = None
        #: Why the step does not run in the recorded mode; empty where it does.
        self.fallback = ""

    @property
    def mode(self) -> str:
        """``eager``, ``graph`` or ``xla``."""
        if self.model.run_eagerly:
            return "eager"
        return "xla" if self.model.jit_compile else "graph"

    def course(self) -> Course:
        """Run all recorded steps and find the one to be watched.

        Raises:
            DoctorError: a batch is damaged, or the step cannot run at all.
        """
        try:
            rolled = list(self._steps(math.inf))
        except DoctorError as error:
            if self.mode != "xla":
                raise
            self.fallback = error.why
            self._without_jit()
            rolled = list(self._steps(math.inf))
        bad = next((step for step in rolled if step.failure), None)
        return Course(
            steps=tuple(rolled),
            equality=compare(self._recording, rolled),
            mode=self.mode,
            first_bad=-1 if bad is None else bad.step,
            why="" if bad is None else bad.failure,
            watched=self._watched(bad, rolled),
        )

    def to(self, step: int) -> Generators:
        """Put the model into the state from before a training step.

        Returns:
            The state of the process' generators before it.
        """
        from divergence_doctor.replay.generators import Generators

        for _ in self._steps(step):
            pass
        return Generators.now()

    def _watched(self, bad: Rolled | None, rolled: Sequence[Rolled]) -> tuple[int, ...]:
        """Return the steps to be watched, the failing one last.

        They begin with the last one before it whose loss was ordinary: where the loss had run away
        before it overflowed, no change at the failing step alone would mend it. Where none failed
        there is nothing that one step would show, and the last few go.
        """
        known = [one.step for one in self._recording.steps]
        if bad is None:
            return tuple(known[-LEADING:])
        before = [one for one in rolled if one.step < bad.step]
        losses = [abs(one.own_loss) for one in before if math.isfinite(one.own_loss)]
        ordinary = UNDECIDED * max(min(losses, default=math.inf), SMALL)
        start = next(
            (one.step for one in reversed(before) if abs(one.own_loss) <= ordinary), bad.step - 1
        )
        start = max(start, bad.step - LEADING)
        return tuple(step for step in known if start <= step <= bad.step)

    def _without_jit(self) -> None:
        self._function = None
        self.model.jit_compile = False

    def _steps(self, until: float) -> Iterator[Rolled]:
        """Yield the steps before ``until`` as they run again, from the snapshot."""
        self._start.restore()
        self._generators.restore()
        with compiled():
            if seams.global_seed_state() is not self._drawn_from:
                self._function = None
            function = self._function or self._make()
            before = None
            for one in self._recording.steps:
                if one.step >= until:
                    return
                self._progress(f"training step {one.step}")
                rolled = self._step(one, function, fresh=self._begins(before, one.step))
                before = one.step
                self._drawn_from = seams.global_seed_state()
                yield rolled
                if rolled.raised:
                    return

    def _make(self) -> Callable[[Any], Any]:
        kept = self.model.train_function
        self.model.make_train_function(force=True)
        self._function, self.model.train_function = self.model.train_function, kept
        return self._function

    def _begins(self, before: int | None, step: int) -> bool:
        """Say whether the metrics start anew with a step, as Keras lets them."""
        if self._recording.loop in {"train_on_batch", "custom"}:
            return True
        return before is not None and self._recording.epoch(before) != self._recording.epoch(step)

    def _step(self, one: RecordedStep, function: Callable[[Any], Any], *, fresh: bool) -> Rolled:
        self._set_rate(one.step)
        data = tensors(match(one.read(), self.model, convert=False))
        rate, scale = learning_rate_of(self.model), loss_scale_of(self.model)
        whole = self._recording.loop == "train_on_batch"
        before = (0.0, 0.0) if fresh else _mean(self.model)
        # What is handed over is a plain iterator: of one batch, whatever steps_per_execution says.
        ran = run_step(
            self.model,
            data,
            lambda packed: function(iter([tuple(data) if whole else packed])),
            fresh=fresh,
        )
        loss = _scalar(ran.logs)
        after = _mean(self.model)
        return Rolled(
            step=one.step,
            loss=loss,
            step_loss=_apart(before, after),
            learning_rate=rate,
            loss_scale=scale,
            bad_variable=bad_variable(self.model) or _impossible_slot(self.model),
            raised=ran.raised,
            raised_type=ran.raised_type,
        )

    def _set_rate(self, step: int) -> None:
        """Put in place the rate that a callback of the training had set between two steps."""
        rate = self._recording.of(step, "learning_rate")
        optimizers = optimizers_of(self.model)
        if not optimizers or math.isnan(rate):
            return
        optimizer = innermost(optimizers[0])
        held: Any = getattr(optimizer, "_learning_rate", None)
        if hasattr(held, "assign") and np.float32(rate) != np.float32(float(held)):
            held.assign(rate)


def _impossible_slot(model: Any) -> str:
    """Return the first slot that keeps squares and holds a number below zero; or empty."""
    for variable, path, optimizer in slot_variables(model):
        if not may_be_negative("slots", path, optimizer):
            values = seams.values_of(variable)
            if values.size and float(values.min()) < -_ROUNDING * (1 + float(values.max())):
                return path
    return ""


def _mean(model: Any) -> tuple[float, float]:
    """Return sum and count of the running mean of the loss; NaN where the model keeps none."""
    tracker: Any = next((metric for metric in model.metrics if metric.name == "loss"), None)
    if not hasattr(tracker, "total") or not hasattr(tracker, "count"):
        return math.nan, math.nan
    return float(np.asarray(tracker.total)), float(np.asarray(tracker.count))


def _apart(before: tuple[float, float], after: tuple[float, float]) -> float:
    """Return the loss of the one step by which a running mean went on."""
    count = after[1] - before[1]
    return (after[0] - before[0]) / count if count > 0 else math.nan


def _scalar(logs: Any) -> Any:
    """Return the logged loss as a NumPy scalar of its dtype; None where none was logged."""
    if not isinstance(logs, dict) or "loss" not in logs:
        return None
    value = np.asarray(logs["loss"])
    if value.dtype.kind != "f" or value.dtype.itemsize < 4:
        value = value.astype(np.float32)
    return value.reshape(())[()] if value.size == 1 else np.float64(value.astype(np.float64).mean())
