"""What of a crash bundle is watched, and what does going through it again say?

The recorded steps roll forward from the snapshot to the step that went wrong first; the last sound
one and that one are then replayed like any checkpoint with its batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.errors import UsageError
from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.bench import GRACE
from divergence_doctor.replay.execution import describe_mode
from divergence_doctor.replay.generators import Generators
from divergence_doctor.replay.leading import mark_left, tell_course, tell_watched, watch_leading
from divergence_doctor.replay.rolling import LEADING, Course, Rolling
from divergence_doctor.replay.seeds import is_random_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from divergence_doctor.batches import Batch
    from divergence_doctor.checkpoints import Recording
    from divergence_doctor.trace import TraceBuilder

#: The model in the state from before the failing step, beside the report.
BEFORE: Final = "before.keras"
BEFORE_WEIGHTS: Final = "before.weights.h5"
#: Bytes of weights beyond which they are not written a second time.
_LARGEST: Final = 2 << 30
#: What the recorder saw and what is no divergence: it was asked for, or told to stop.
_NO_FAILURE: Final = frozenset({"requested", "signal", "loss-spike"})


@final
class Crash:
    """The steps of a crash bundle, on the way to the failing one.

    Args:
        model: the model as the bundle was opened.
        recording: what was recorded.
        progress: told (step, phase, detail) as it goes along.
    """

    def __init__(
        self,
        model: Any,
        recording: Recording,
        progress: Callable[[int, str, str], None] = lambda _step, _phase, _detail: None,
    ) -> None:
        self.recording = recording
        self._model = model
        self._progress = progress
        self.start = Generators.recorded(recording.generators)
        self._rolling = Rolling(
            model,
            recording,
            self.start,
            lambda detail: progress(-1, "rolling forward", detail),
        )
        self._course: Course | None = None
        #: Training steps that are watched, in their order; the failing one last where one failed.
        self.watched = tuple(one.step for one in recording.steps)[-LEADING:]

    @property
    def batches(self) -> tuple[Batch, ...]:
        """The batches of the watched steps."""
        wanted = set(self.watched)
        return tuple(one.read() for one in self.recording.steps if one.step in wanted)

    @property
    def steps(self) -> int:
        """Steps that a replay may take: the watched ones, and those that a mended run must last."""
        return len(self.watched) + GRACE

    @property
    def fails_as_trained(self) -> bool:
        """The steps failed when they ran again as they were trained."""
        return self._course is not None and self._course.first_bad >= 0

    def roll(self, builder: TraceBuilder) -> None:
        """Roll forward, and leave the model in the state from before the first watched step.

        Raises:
            DoctorError: a batch is damaged, or the step cannot run at all.
        """
        if not self.recording.whole:
            tell_course(self.recording, None, builder)
            return
        try:
            self._course = self._rolling.course()
        except UsageError as error:
            if self.recording.trigger != "exception":
                raise
            raise UsageError(
                "not-a-divergence",
                f"a training step up to {self.recording.failing} cannot run at all, as in training:"
                f" {error.message}",
                why=f"{error.why}; that is an error in the code or in a shape, and no divergence",
                fix="mend what it says; reason.json in the bundle has the whole traceback",
            ) from error
        self.watched = self._course.watched
        tell_course(self.recording, self._course, builder)
        watch_leading(self._rolling, self.recording, self._course, builder, self._progress)
        self.start = self._rolling.to(self.watched[0])

    def settle(self, builder: TraceBuilder) -> None:
        """Say in the trace how the recorded run came again, once the watched steps were replayed.

        A run that died elsewhere and stays sound here is inconclusive, not healthy.
        """
        tell_watched(self.watched, self.recording, builder, builder)
        mark_left(builder)
        again = self.fails_as_trained or builder.context.get("outcome") == "diverged"
        fidelity = dict(builder.context.get("fidelity") or {})
        notes = [*fidelity.get("notes", ()), *self._notes(again=again)]
        builder.describe(
            recorded={**self._told(), "again": again},
            fidelity={**fidelity, "notes": notes},
            **self._outcome(builder),
        )

    def save(self, folder: Path, replayed: int) -> dict[str, Any]:
        """Write the model from before a replayed step, and return what reproduces that step.

        Args:
            folder: where it is written.
            replayed: the replayed step, counted from 0.

        Returns:
            What :func:`write_model` returns, with ``batch`` and ``batches`` and how many ``steps``;
            empty where the model cannot be written.
        """
        if not self.recording.whole or not 0 <= replayed < len(self.watched):
            return {}
        step = self.watched[replayed]
        self._rolling.to(step)
        path = next((one.path for one in self.recording.steps if one.step == step), None)
        kept = write_model(self._model, folder)
        if path is None or not kept:
            return {}
        return {**kept, "batch": str(path), "batches": [str(path)], "steps": 1 + GRACE}

    # ------------------------------------------------------------------ what is told

    def _told(self) -> dict[str, Any]:
        """Return how the recorded run came again, as JSON."""
        course, recording = self._course, self.recording
        told: dict[str, Any] = {
            "bundle": clean(recording.bundle.name),
            "trigger": recording.trigger,
            "message": recording.message,
            "failing": recording.failing,
            "snapshot": recording.snapshot,
            "loop": clean(recording.loop, 40),
            "watched": list(self.watched),
            "elsewhere": list(recording.elsewhere),
            "rolled": course is not None,
        }
        if course is None:
            return told
        same = course.equality
        return {
            **told,
            "mode": course.mode,
            "steps": len(course.steps),
            "first_bad": course.first_bad,
            "why": course.why,
            "batch": next(
                (clean(o.path.name) for o in recording.steps if o.step == course.first_bad), ""
            ),
            "losses": {
                "compared": same.compared,
                "equal": same.equal,
                "sentence": same.sentence,
                "first_difference": None
                if same.step < 0
                else {"step": same.step, "ulp": same.ulp, "largest_relative": same.largest},
            },
        }

    def _notes(self, *, again: bool) -> list[str]:
        recording, course = self.recording, self._course
        if course is None:
            return [self._gap()]
        first = recording.steps[0].step
        count = len(course.steps)
        notes = [
            f"Training step{'s' * (count > 1)} {first}"
            + (f" to {course.steps[-1].step}" if count > 1 else "")
            + f" ran again from the snapshot, {describe_mode(course.mode)}:"
            f" {course.equality.sentence}."
        ]
        if self._rolling.fallback:
            notes.append(
                f"The step could not be compiled by XLA here, as it was in training"
                f" ({clean(self._rolling.fallback, 200)}): it ran as a graph."
            )
        if course.equality.equal < course.equality.compared:
            notes.append(self._why_not_equal(course))
        if not again and self._failed_there:
            seen = recording.message or recording.trigger
            notes.append(
                f"The recorded failure at training step {recording.failing} ({seen})"
                " did not come again: the same steps stay finite here."
            )
        return notes

    def _gap(self) -> str:
        first, snapshot = self.recording.steps[0].step, self.recording.snapshot
        count = first - snapshot
        return (
            f"The bundle lacks the batches of {count} step{'s' * (count > 1)} after training step"
            f" {snapshot}, of before which its weights are: what is replayed from step {first} on"
            f" runs on weights that are too old by {count} steps."
        )

    def _why_not_equal(self, course: Course) -> str:
        reasons = list(self.recording.elsewhere)
        if self.recording.jit and course.mode != "xla":
            reasons.append("compiled by XLA there, which draws other random numbers")
        if self.recording.replicas > 1:
            reasons.append(
                f"spread over {self.recording.replicas} replicas there, each with masks of its own"
            )
        if self.recording.loop == "custom":
            reasons.append("a loop of the user's own there, the model's train_step here")
        told = "; ".join(reasons) or (
            "the hardware, or numbers drawn by tf.random or outside of the model"
        )
        size = course.equality.largest
        how = f" (by up to {size:.2g} of their size)" if size else ""
        return f"Why losses may differ{how}: {told}."

    @property
    def _failed_there(self) -> bool:
        return self.recording.trigger not in _NO_FAILURE

    def _outcome(self, builder: TraceBuilder) -> dict[str, Any]:
        context = builder.context
        if context.get("outcome") != "healthy" or not self._failed_there:
            return {}
        told = self.recording.message or self.recording.trigger or "a failure"
        came = (
            f"the steps ran again as trained and failed at training step {self._course.first_bad}"
            if self._course is not None and self.fails_as_trained
            else "the same steps stay sound here"
        )
        return {
            "outcome": "inconclusive",
            "outcome_because": f"the flight recorder saw {told} at training step"
            f" {self.recording.failing}; {came}, and {context.get('outcome_because', '')}",
        }


def write_model(model: Any, folder: Path) -> dict[str, Any]:
    """Write a model in its present state, for a script that does without this package.

    Args:
        model: a built Keras model.
        folder: where ``before.keras`` is written, or ``before.weights.h5`` for a model whose config
            cannot be.

    Returns:
        ``checkpoint``, ``seeds`` (the state of each random generator in the model) and ``reseed``;
        empty where it is too large, or cannot be written.
    """
    if sum(seams.values_of(variable).nbytes for variable in model.variables) > _LARGEST:
        return {}
    for name, write in ((BEFORE, model.save), (BEFORE_WEIGHTS, model.save_weights)):
        path = folder / name
        try:
            write(path)
        except Exception:  # noqa: BLE001 - a config of the user's own, or no room on the disk
            path.unlink(missing_ok=True)
            continue
        # A bundle is for its owner's eyes, and so are the weights out of it.
        path.chmod(0o600)
        states = [v for v in model.variables if is_random_state(v)]
        seeds = [[int(word) for word in np.asarray(state.value)] for state in states]
        return {"checkpoint": name, "seeds": seeds, "reseed": False}
    return {}
