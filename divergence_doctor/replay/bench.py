"""What would have happened with one thing changed? The same steps again, from the same start.

Every run starts from the snapshot that was taken before the first step and from the same seed, so
that the change is the only difference. A run *mends* the failure when it gets past the failing step
with everything finite and without the loss running away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor._rows import SPLITS
from divergence_doctor.checkpoints import optimizers_of
from divergence_doctor.errors import UsageError
from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.engine import Ran, run_step, watch_for
from divergence_doctor.replay.execution import compiled, run_one
from divergence_doctor.replay.feeding import match, tensors
from divergence_doctor.replay.ops import Spot
from divergence_doctor.replay.outcome import BELOW_ZERO, NEVER_NEGATIVE, runaway, wrecked
from divergence_doctor.replay.source import spell
from divergence_doctor.replay.state import Snapshot, model_variables, slot_variables
from divergence_doctor.replay.subset import Subsets
from divergence_doctor.replay.train_function import REFERENCE, TrainFunction, Way
from divergence_doctor.replay.watch import StepWatch
from divergence_doctor.stats import all_finite
from divergence_doctor.trace import TraceBuilder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from divergence_doctor.batches import Batch
    from divergence_doctor.replay.feeding import Fed
    from divergence_doctor.replay.opstream import OpStream

#: Steps past the failing one that a mended run must survive, so that a failure that is only put
#: off by a step does not count as mended.
GRACE: Final = 2

#: Results of single ops to replace: (the op's spot, output) -> what to make of its values.
Patches = Mapping[tuple[Spot, int], Callable[[Any], Any]]


#: The kind of failure in which every number stays finite.
RUNAWAY: Final = "runs away"


@dataclass(frozen=True, slots=True)
class Fault:
    """How a run failed, to be compared with how another one did.

    Attributes:
        kind: what failed: the loss, a gradient, the state, an exception by its class, ...
        step: step at which it failed.
        place: op type of the first producer (of the op that raised), its layer, its source line,
            and whether its derivative it was; None where that was not watched.
        rows: rows of the batch that were bad there; empty where all were, or none can be told.
    """

    kind: str
    step: int
    place: tuple[str, str, str, bool] | None = None
    rows: tuple[int, ...] = ()

    @property
    def raised(self) -> bool:
        """The step ended in an exception."""
        return self.kind.startswith("raises ")

    def like(self, other: Fault) -> bool:
        """Say whether it is the same failure: of one kind and, where both are known, one place."""
        unknown = self.place is None or other.place is None
        return self.kind == other.kind and (unknown or self.place == other.place)


@dataclass(frozen=True, slots=True)
class Rerun:
    """What one changed run came to.

    Attributes:
        finite: it got past the failing step, finite and not running away.
        why: what failed, or how it went.
        losses: loss of each step that ran.
        seconds: wall time.
        fault: how it failed; None when it did not.
    """

    finite: bool
    why: str
    losses: tuple[float, ...]
    seconds: float
    fault: Fault | None = None

    @property
    def steps(self) -> int:
        """Steps that stayed finite."""
        return len(self.losses) if self.finite else max(len(self.losses) - 1, 0)


@final
class Bench:
    """The failing step, ready to be run again with one thing changed.

    Args:
        model: the model, in any state.
        snapshot: its state before the first step.
        batches: the batches as read.
        seed: the seed of the replay.
        asked: steps that the replay was asked for.
        failing_step: step at which it failed.
        stream: the watched stream of ops of the failing step, for changes to single ops.
        ran: steps that the replay took: more than up to the failing one where it failed while
            finite, which shows only in where the loss ends.
        function: the step as it was trained, for runs in that execution; None where there is none.
        execution: the execution that fails, in which every run is unless it says otherwise.
        watched: loss of each step of the watched replay, and whether the step failed.
    """

    def __init__(  # noqa: PLR0913 - each is one fact of the failing step
        self,
        model: Any,
        snapshot: Snapshot,
        batches: Sequence[Batch],
        *,
        seed: int,
        asked: int,
        failing_step: int,
        stream: OpStream | None,
        losses: Sequence[str] = (),
        ran: int = 0,
        function: TrainFunction | None = None,
        execution: Way = REFERENCE,
        watched: Sequence[tuple[float, bool]] = (),
    ) -> None:
        self.model = model
        self.batches = tuple(batches)
        self.failing_step = failing_step
        self.asked = asked
        self.stream = stream
        self.execution: Way = execution
        self.function = function
        self._snapshot = snapshot
        self.seed = seed
        self._ran = ran
        self.watched = tuple(watched)
        #: What the control came to, in the execution that fails; None before it ran.
        self.control: Rerun | None = None
        #: When trials are to end (``time.perf_counter``): a search stops where it stands.
        self.until = math.inf
        self._nonnegative = bool(losses) and all(name in NEVER_NEGATIVE for name in losses)
        #: Runs with a part of the failing step's batch, each run once.
        self.subsets = Subsets(self)
        #: What the untouched steps came to when they ran last; None before they did.
        self.untouched: Rerun | None = None

    @property
    def enough(self) -> int:
        """Steps that a change at the point must survive."""
        seen = max(self.failing_step + 1, min(self._ran, self.asked))
        return max(min(seen + GRACE, self.asked), self.failing_step + 1)

    @property
    def in_time(self) -> bool:
        """There is time left for another run of a search that has an answer already."""
        return time.perf_counter() < self.until

    def run(
        self,
        *,
        batches: Sequence[Batch] | None = None,
        prepare: Callable[[], AbstractContextManager[None]] = nullcontext,
        patches: Patches | None = None,
        steps: int | None = None,
        watching: Callable[[int, Fed, Any], AbstractContextManager[None]] | None = None,
        execution: Way | None = None,
        watched: bool = False,
    ) -> Rerun:
        """Run the steps again from the start, with one thing changed.

        Args:
            batches: other batches than the given ones.
            prepare: a context manager that changes model or optimizer after the state was put
                back, and undoes on leaving what putting back the state does not.
            patches: results of single ops to replace.
            steps: steps to run; by default those that a change at the point must survive.
            watched: watch the failing step, so that the fault tells its place.
            watching: given (step, fed batch, its tensors), what runs around that step.
            execution: another execution than the one that fails.

        Raises:
            UsageError: the steps cannot run so in that execution.
        """
        way = REFERENCE if watching is not None else execution or self.execution
        if way != REFERENCE:
            return self._run_compiled(way, batches, prepare, patches, steps or self.enough)
        import tensorflow as tf

        eagerly = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)  # noqa: FBT003 - TensorFlow's signature
        start = time.perf_counter()
        losses: list[float] = []
        try:
            self._snapshot.start(self.seed)
            with prepare():
                failed = self._steps(
                    batches or self.batches,
                    steps or self.enough,
                    patches,
                    losses,
                    watching,
                    watched=watched,
                )
        finally:
            tf.config.run_functions_eagerly(eagerly)
            self._snapshot.restore()
        why, fault = failed or (_course(losses), None)
        seconds = time.perf_counter() - start
        rerun = Rerun(failed is None, why, tuple(losses), seconds, fault)
        whole = (steps or self.enough) >= self.enough
        if whole and (batches, patches, execution) == (None,) * 3 and prepare is nullcontext:
            self.untouched = rerun
        return rerun

    def _run_compiled(
        self,
        way: Way,
        batches: Sequence[Batch] | None,
        prepare: Callable[[], AbstractContextManager[None]],
        patches: Patches | None,
        steps: int,
    ) -> Rerun:
        """Run the steps as they were trained, traced anew where something was changed in them."""
        if patches or self.function is None:
            raise UsageError(
                "not-as-trained",
                "this change cannot be made in the step as it was trained",
                why="a single op of a traced graph cannot be replaced"
                if patches
                else "the step was not run as it was trained",
                fix="replay with --as-trained",
            )
        start = time.perf_counter()
        losses: list[float] = []
        changed = prepare is not nullcontext
        try:
            self._snapshot.start(self.seed)
            with compiled(), prepare():
                if changed:
                    self.function.forget()
                why = self._compiled_steps(way, batches or self.batches, steps, losses)
        finally:
            if changed:
                self.function.forget()
            self._snapshot.restore()
        return Rerun(
            why is None, why or _course(losses), tuple(losses), time.perf_counter() - start
        )

    def _compiled_steps(
        self, way: Way, batches: Sequence[Batch], steps: int, losses: list[float]
    ) -> str | None:
        fed = [match(batch, self.model) for batch in batches]
        ratios: list[float] = []
        for number in range(steps):
            before = self._trainable()
            step = run_one(self.model, self.function, tensors(fed[number % len(fed)]), way)
            losses.append(step.loss)
            if step.failure:
                return f"step {number} {step.failure}"
            ratios.append(_ratio(before, self._trainable()))
        gone = runaway(losses) or wrecked(losses, ratios)
        return None if gone is None else f"finite, but {gone[1]}"

    def _steps(
        self,
        batches: Sequence[Batch],
        steps: int,
        patches: Patches | None,
        losses: list[float],
        watching: Callable[[int, Fed, Any], AbstractContextManager[None]] | None,
        *,
        watched: bool,
    ) -> tuple[str, Fault] | None:
        fed = [match(batch, self.model) for batch in batches]
        ratios: list[float] = []
        for step in range(steps):
            data = tensors(fed[step % len(fed)])
            glance = _Glance(self.model)
            before = self._trainable()
            watch = self._watch(step, fed[step % len(fed)], data, patches, watched=watched)
            with ExitStack() as stack:
                stack.enter_context(glance.looking())
                if watch is not None:
                    stack.enter_context(watch.watching())
                if watching is not None:
                    stack.enter_context(watching(step, fed[step % len(fed)], data))
                ran = run_step(self.model, data)
            losses.append(glance.loss_of(ran))
            failed = self._failure(step, ran, losses[-1], glance)
            if failed is not None:
                why, kind = failed
                seen = watch if watched else None
                return why, _fault(kind, step, seen, ran)
            ratios.append(_ratio(before, self._trainable()))
        if self._scales() and steps >= self.asked and not any(ratios):
            return "loss scaling skipped every step", Fault("skips every step", steps - 1)
        gone = runaway(losses) or wrecked(losses, ratios)
        return None if gone is None else (f"finite, but {gone[1]}", Fault(RUNAWAY, gone[0]))

    def _watch(
        self, step: int, fed: Fed, data: Any, patches: Patches | None, *, watched: bool
    ) -> StepWatch | None:
        """Return what watches a step: where results are replaced, or the place is asked for."""
        asked = watched and step == self.failing_step
        if not patches and not asked:
            return None
        watch = (
            watch_for(self.model, TraceBuilder(), fed, data, step=step)
            if asked
            else StepWatch(
                TraceBuilder(), step=step, names={}, handles={}, samples=0, model=self.model,
                progress=lambda _phase, _layer: None,
            )
        )  # fmt: skip
        watch.stream.patches = dict(patches or {})
        return watch

    def _failure(self, step: int, ran: Ran, loss: float, glance: _Glance) -> tuple[str, str] | None:
        """Return why a step failed, and the kind of failure that is; None when it did not."""
        if ran.raised:
            return f"step {step} raises {ran.raised_type}", f"raises {ran.raised_type}"
        if not math.isfinite(loss):
            return f"the loss of step {step} is {loss}", "the loss is not finite"
        bad = self._bad_variable()
        if bad:
            return f"{bad} is not finite after step {step}", "the state is not finite"
        if not glance.gradients_finite and not self._scales():
            return f"the gradients of step {step} are not finite", "a gradient is not finite"
        if self._nonnegative and loss < BELOW_ZERO:
            return f"the loss of step {step} is {loss:.4g}, below zero", "the loss is below zero"
        return None

    def _trainable(self) -> list[NDArray[Any]]:
        return [
            seams.values_of(held.variable).astype(np.float32)
            for held in model_variables(self.model)
            if held.trainable
        ]

    def _scales(self) -> bool:
        return any(hasattr(optimizer, "dynamic_scale") for optimizer in optimizers_of(self.model))

    def _bad_variable(self) -> str:
        for held in model_variables(self.model):
            if not all_finite(seams.values_of(held.variable)):
                return held.path
        for variable, path, _ in slot_variables(self.model):
            if not all_finite(seams.values_of(variable)):
                return path
        return ""

    def edited(self, change: Callable[[str, Any], Any]) -> tuple[Batch, ...]:
        """Return the batches with ``change(name, array)`` applied to every array."""
        return tuple(
            replace(
                batch,
                arrays={
                    n: a if n.removesuffix(SPLITS) in batch.ragged else change(n, a)
                    for n, a in batch.arrays.items()
                },
            )
            for batch in self.batches
        )


@final
class _Glance:
    """The least that must be seen of a step: its loss, and whether the gradients are finite."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._loss: float | None = None
        self._targets: list[float] = []
        self.gradients_finite = True

    @contextmanager
    def looking(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(
                seams.patched(seams.trainer_class(), "_compute_loss", self._compute_loss)
            )
            stack.enter_context(seams.patched(seams.tape_class(), "gradient", self._gradient))
            yield

    def loss_of(self, ran: Ran) -> float:
        if self._loss is not None:
            return self._loss
        if isinstance(ran.logs, dict) and "loss" in ran.logs:
            return float(np.asarray(ran.logs["loss"]).sum())
        return sum(self._targets) if self._targets else math.nan

    def _compute_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        glance = self

        def compute(model: Any, *args: Any, **kwargs: Any) -> Any:
            loss = original(model, *args, **kwargs)
            if model is glance._model:
                glance._loss = float(np.asarray(loss, dtype=np.float64).sum())
            return loss

        return compute

    def _gradient(self, original: Callable[..., Any]) -> Callable[..., Any]:
        glance = self

        def gradient(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
            found = original(tape, target, sources, *args, **kwargs)
            glance._look(target, sources, found)
            return found

        return gradient

    def _look(self, target: Any, sources: Any, found: Any) -> None:
        import tensorflow as tf

        trainable = {id(variable) for variable in self._model.trainable_variables}
        if not any(id(source) in trainable for source in tf.nest.flatten(sources)):
            return
        for tensor in tf.nest.flatten(target):
            self._targets.append(float(np.asarray(tensor, dtype=np.float64).sum()))
        flat = found if isinstance(found, list | tuple) else [found]
        for tensor in flat:
            values = getattr(tensor, "values", tensor)
            if seams.has_values(values) and not all_finite(seams.view(values)):
                self.gradients_finite = False


def _fault(kind: str, step: int, watch: StepWatch | None, ran: Ran) -> Fault:
    """Return how a step failed, with its place where it was watched and an op can be named."""
    if watch is None:
        return Fault(kind, step)
    if ran.raised and ran.raised_op != "CheckNumerics":
        return Fault(kind, step, (ran.raised_op, watch.reached.layer, ran.source, False))
    if ran.raised:
        watch.stream.consequences.reach_everything("loss")
    event = watch.stream.consequences.settle()
    if event is None:
        return Fault(kind, step)
    op = watch.stream.ops[event.op]
    derivative = op.derivative_of >= 0
    forward = watch.stream.ops[op.derivative_of] if derivative else op
    source = spell(*forward.line) if forward.line else ""
    place = forward.op_type, forward.place.layer, source, derivative
    return Fault(kind, step, place, event.samples)


def _ratio(before: list[NDArray[Any]], after: list[NDArray[Any]]) -> float:
    """Return L2 of a step's update over L2 of the weights before it."""
    with np.errstate(all="ignore"):
        moves = [np.linalg.norm(new - old) for old, new in zip(before, after, strict=True)]
        size = math.hypot(*(np.linalg.norm(old) for old in before))
    return math.hypot(*moves) / size if size > 0 else math.nan


def _course(losses: Sequence[float]) -> str:
    if not losses:
        return "no step ran"
    return f"loss {losses[0]:.4g} to {losses[-1]:.4g} over {len(losses)} step" + "s" * (
        len(losses) > 1
    )
