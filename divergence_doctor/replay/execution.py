"""Does the step do the same the way it was trained? As a graph, fused, compiled, against eagerly.

The reference is the watched replay, which runs op by op. The same steps run again through the
model's own ``train_function`` from the same start. Where the two disagree in what raises, in what
is finite, or in a number beyond rounding, the step runs once more with one thing switched off, and
the layer is sought at which the two part.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor.errors import DoctorError
from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.feeding import tensors
from divergence_doctor.replay.outcome import SMALL, UNDECIDED
from divergence_doctor.replay.parting import Meeting, Parting, part
from divergence_doctor.replay.state import (
    Snapshot,
    model_variables,
    slot_variables,
)
from divergence_doctor.replay.train_function import (
    AS_TRAINED,
    REFERENCE,
    WITHOUT_JIT,
    WITHOUT_REMAPPER,
    TrainFunction,
    Way,
)
from divergence_doctor.stats import all_finite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from divergence_doctor.replay.engine import Ran
    from divergence_doctor.replay.feeding import Fed
    from divergence_doctor.trace import TraceBuilder

#: Times what one rounding of every weight makes of the step: an execution rounds in every op.
_MARGIN: Final = 10.0
#: Steps past the failing one: whether the loss shows the failure at last, or goes on hiding it.
_BEYOND: Final = 2
#: Seconds to trace, optimise and run a step for the first time, at least and per eager op of it:
#: measured on the sample runs (TensorFlow 2.21, Keras 3.15, 2 cores; 27 to 881 ops a step).
_FIRST: Final = {"graph": (0.05, 6e-4), "xla": (1.5, 4e-3)}
#: Seconds of a step per element that a layer puts out: ResNet50 at 160x160, batch 8, likewise.
_PER_ELEMENT: Final = 3e-8
#: Ops that draw numbers. Eagerly, ``tf.random`` draws others than in a graph; under XLA so does
#: ``keras.random``, whose stateless ops take another algorithm there.
_STATEFUL: Final = frozenset(
    {
        "RandomUniform",
        "RandomUniformInt",
        "RandomStandardNormal",
        "TruncatedNormal",
        "RandomGamma",
        "RandomPoissonV2",
        "RandomShuffle",
        "Multinomial",
        "StatefulUniform",
        "StatefulStandardNormalV2",
        "StatefulTruncatedNormal",
    }
)
_STATELESS: Final = "StatelessRandom"


@dataclass(frozen=True, slots=True)
class Step:
    """What one step came to, in one execution.

    Attributes:
        ran: what it returned or raised.
        loss: its loss; NaN where the logs hold none.
        measured: the logs hold a loss.
        bad_variable: the first variable that is not finite after it, or empty.
        seconds: wall time.
    """

    ran: Ran
    loss: float
    measured: bool
    bad_variable: str
    seconds: float

    @property
    def failure(self) -> str:
        """What is wrong after it, or empty."""
        if self.ran.raised:
            return f"raises {self.ran.raised_type}"
        if self.measured and not math.isfinite(self.loss):
            return f"has a loss of {self.loss}"
        return f"leaves {self.bad_variable} not finite" if self.bad_variable else ""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two executions of one step disagree.

    Attributes:
        kind: ``raised``, ``loss``, ``state`` or ``value``; empty where they agree.
        size: relative difference of the numbers, for a ``value``.
        variable: the variable in which they differ, or empty.
    """

    kind: str = ""
    size: float = math.nan
    variable: str = ""


def run_one(model: Any, function: Any, data: Any, way: Way) -> Step:
    """Run one step in one execution and look at what it leaves behind."""
    start = time.perf_counter()
    ran = function.run(data, way)
    seconds = time.perf_counter() - start
    loss, measured = _logged(ran.logs)
    return Step(ran, loss, measured, bad_variable(model), seconds)


def bad_variable(model: Any) -> str:
    """Return the first variable (slots too) that is not finite, or cannot be; or empty."""
    for held in model_variables(model):
        values = seams.values_of(held.variable)
        if not all_finite(values):
            return held.path
        if "variance" in held.path.rpartition("/")[2] and (values < 0).any():
            return held.path
    slots = ((variable, path) for variable, path, _ in slot_variables(model))
    return next((path for v, path in slots if not all_finite(seams.values_of(v))), "")


def _logged(logs: Any) -> tuple[float, bool]:
    """Return the loss that a step logged, and whether it did (metrics start anew each step)."""
    if isinstance(logs, dict) and "loss" in logs:
        return float(np.asarray(logs["loss"], dtype=np.float64).sum()), True
    return math.nan, False


@contextmanager
def compiled() -> Iterator[None]:
    """Have functions traced and compiled inside, as in training."""
    import tensorflow as tf

    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(False)  # noqa: FBT003 - TensorFlow's signature
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(eagerly)


def describe_mode(mode: str) -> str:
    """Return in words how the step was trained."""
    words = {"eager": "eager (run_eagerly=True)", "xla": "graph compiled by XLA (jit_compile=True)"}
    return words.get(mode, "graph (jit_compile=False)")


def tolerance(dtypes: Sequence[str]) -> float:
    """Return the relative difference that rounding may make of a whole step.

    It is the square root of the unit roundoff of the coarsest dtype in which layers compute: half
    of the digits. Sums in another order differ by a modest multiple of the roundoff (N. Higham,
    *Accuracy and Stability of Numerical Algorithms*, 2nd ed., section 4.2), and a network amplifies
    that by its condition, which is unknown; a change of algorithm beyond rounding shows above it.
    """
    import ml_dtypes

    eps = [float(ml_dtypes.finfo(dtype).eps) for dtype in set(dtypes) if "float" in dtype]
    return math.sqrt(max(eps, default=float(np.finfo(np.float32).eps)))


@final
class Comparison:
    """Runs the steps as they were trained and writes down where they disagree with the reference.

    Args:
        model: the model, in any state.
        snapshot: its state before the first step.
        batches: the fed batches, as the engine had them.
        builder: the trace, with the reference's steps in it.
        seed: the seed of the replay.
        ops: op types that the reference ran, to tell which numbers are drawn.
    """

    def __init__(
        self,
        model: Any,
        snapshot: Snapshot,
        batches: Sequence[Fed],
        builder: TraceBuilder,
        *,
        seed: int,
        ops: frozenset[str],
    ) -> None:
        self.function = TrainFunction(model)
        self._model = model
        self._snapshot = snapshot
        self._batches = batches
        self._builder = builder
        self._seed = seed
        self._reference = builder.rows("steps")
        self._tolerance = tolerance([str(row["dtype"]) for row in builder.rows("activations")])
        #: What one rounding makes of the loss and of each update, where it had to be measured.
        self._rounding: dict[str, float] = {}
        drawn = bool(ops & _STATEFUL)
        if self.function.mode == "xla":
            drawn |= any(kind.startswith(_STATELESS) for kind in ops)
        #: The two draw the same random numbers, if any: their numbers can be compared.
        self.comparable = not drawn

    @property
    def expected_seconds(self) -> float:
        """How long it will take, about; from the reference's counts, so the same every time."""
        ops = max((row["ops"] for row in self._reference), default=0)
        least, per_op = _FIRST.get(self.function.mode, (0.0, 0.0))
        elements = sum(row["size"] for row in self._builder.rows("activations"))
        return float(least + ops * per_op + elements * _PER_ELEMENT)

    def run(self, progress: Callable[[str], None] = lambda _detail: None) -> list[Step]:
        """Run the steps as trained, compare, and where they disagree find out where and by what.

        Returns:
            The steps that ran as trained.

        Raises:
            DoctorError: the step cannot run as it was trained.
        """
        with compiled():
            try:
                steps, differences = self._steps(AS_TRAINED)
                if differences[0].kind == "value":
                    self._measure_rounding()
                    steps, differences = self._steps(AS_TRAINED)
                at = next((i for i, found in enumerate(differences) if found.kind), None)
                parting = Parting()
                if at is not None:
                    progress("the layer at which the executions part")
                    parting = part(
                        self._at(at), differences[at].kind, raised=bool(steps[at].ran.raised)
                    )
                for number, (step, found) in enumerate(zip(steps, differences, strict=True)):
                    self._add(AS_TRAINED, number, step, found, parting if number == at else None)
                if at is not None:
                    progress("one thing switched off at a time")
                    self._switch_off(at)
            finally:
                self._snapshot.restore()
        return steps

    # ------------------------------------------------------------------ the steps

    def _steps(self, way: Way, last: int | None = None) -> tuple[list[Step], list[Difference]]:
        """Run the steps in one execution from the start, until they failed and a little beyond."""
        self._start()
        steps: list[Step] = []
        differences: list[Difference] = []
        enough = len(self._reference) if last is None else last + 1
        beyond = _BEYOND if last is None and self._reference_failed() else 0
        for number in range(enough + beyond):
            data = tensors(self._batches[number % len(self._batches)])
            step = run_one(self._model, self.function, data, way)
            steps.append(step)
            compared = number < len(self._reference)
            differences.append(self._compare(number, step) if compared else Difference())
            if step.ran.raised or (step.measured and not math.isfinite(step.loss)):
                break
        return steps, differences

    def _at(self, number: int) -> Meeting:
        return Meeting(
            function=self.function,
            start=self._start,
            batches=self._batches,
            builder=self._builder,
            step=number,
            tolerance=self._allowed() if self.comparable and number == 0 else math.inf,
        )

    def _start(self) -> None:
        self._snapshot.start(self._seed)

    def _reference_failed(self) -> bool:
        last = self._reference[-1]
        return bool(last["raised"] or not last["loss_finite"] or not last["state_finite"])

    def _compare(self, number: int, step: Step) -> Difference:
        row = self._reference[number]
        if row["raised"] or step.ran.raised:
            return Difference("raised" if bool(row["raised"]) != bool(step.ran.raised) else "")
        if self._on_its_way_out(number, step):
            return Difference()
        if step.measured and math.isfinite(step.loss) != row["loss_finite"]:
            return Difference("loss")
        if row["state_finite"] != (not step.bad_variable):
            return Difference("state", variable=step.bad_variable or self._bad_in_reference(number))
        if number or not self.comparable or not (row["loss_finite"] and row["state_finite"]):
            return Difference()
        return self._compare_numbers(step, row)

    def _on_its_way_out(self, number: int, step: Step) -> bool:
        """Say whether the loss runs away: rounding then moves its end by a step, or in its size."""
        earlier = [abs(self._reference[0]["loss"]), SMALL]
        losses = [abs(row["loss"]) for row in self._reference[: number + 1]]
        finite = [loss for loss in (*losses, abs(step.loss)) if math.isfinite(loss)]
        return number > 0 and max(finite, default=0.0) > UNDECIDED * max(earlier)

    def _bad_in_reference(self, number: int) -> str:
        rows = [*self._builder.rows("weights"), *self._builder.rows("slots")]
        return next(
            (
                str(row["variable"])
                for row in rows
                if row["step"] == number and row["when"] == "after" and _nonfinite(row)
            ),
            "",
        )

    def _compare_numbers(self, step: Step, row: dict[str, Any]) -> Difference:
        """Compare the loss, and the length of every variable's update, of the first step."""
        apart = self._numbers_apart(step, row)
        over = {name: size / self._allowed(name) for name, size in apart.items()}
        worst = max(over, key=lambda name: over[name], default="")
        if not over.get(worst, 0.0) > 1.0:
            return Difference()
        return Difference("value", apart[worst], worst)

    def _allowed(self, name: str = "") -> float:
        """Return the relative difference that rounding may make of the loss, or of an update."""
        measured = self._rounding.get(name, 0.0)
        if self._rounding.get("", 0.0) > self._tolerance:
            # Where the loss itself is amplified, no gradient of it is steadier than the worst.
            measured = max(self._rounding.values())
        return max(self._tolerance, _MARGIN * measured)

    def _measure_rounding(self) -> None:
        """Measure what one rounding of every weight makes of the reference's first step.

        It is the network's condition: depth and recurrence may amplify rounding to any size, and
        where a gradient is nothing but rounding (a bias before a normalisation) Adam makes a whole
        step of it. No difference below that is one of the executions.
        """
        import ml_dtypes

        self._start()
        generator = np.random.default_rng(self._seed)
        starts = {}
        for held in model_variables(self._model):
            value = seams.values_of(held.variable)
            eps = float(ml_dtypes.finfo(value.dtype).eps)
            signs = generator.choice([-eps, eps], size=value.shape)
            starts[held.path] = (value * (1 + signs)).astype(value.dtype)
            held.variable.assign(starts[held.path])
        step = run_one(self._model, self.function, tensors(self._batches[0]), REFERENCE)
        self._rounding = self._numbers_apart(step, self._reference[0], starts)
        if step.failure:
            self._rounding = dict.fromkeys(["", *starts], math.inf)

    def _numbers_apart(
        self, step: Step, row: dict[str, Any], starts: dict[str, Any] | None = None
    ) -> dict[str, float]:
        """Return the relative differences of the loss (under the empty name) and of each update.

        Args:
            step: the step, run just now.
            row: the reference's row of it.
            starts: what the variables held before it; as in the snapshot by default.
        """
        apart: dict[str, float] = {}
        if step.measured:
            terms = [abs(t["value"]) for t in self._builder.rows("losses") if t["step"] == 0]
            scale = max([abs(row["loss"]), abs(step.loss), *filter(math.isfinite, terms)])
            apart[""] = abs(row["loss"] - step.loss) / scale if scale > 0 else 0.0
        updates = {u["variable"]: u for u in self._builder.rows("updates") if u["step"] == 0}
        for held in model_variables(self._model):
            update, before = updates.get(held.path), self._snapshot.value(held.variable)
            before = before if starts is None else starts.get(held.path)
            if update is not None and before is not None:
                after = seams.values_of(held.variable)
                apart[held.path] = self._update_differs(update, after, before)
        return apart

    def _update_differs(self, update: dict[str, Any], after: Any, before: Any) -> float:
        """Return the relative difference of two updates' lengths, less what storing them rounds."""
        import ml_dtypes

        old = before.astype(np.float64)
        length = float(np.linalg.norm(after.astype(np.float64) - old))
        rounded = float(ml_dtypes.finfo(before.dtype).eps) * float(np.linalg.norm(old))
        scale = max(length, float(update["l2"]))
        return max(abs(length - float(update["l2"])) - rounded, 0.0) / scale if scale > 0 else 0.0

    # ------------------------------------------------------------------ by what

    def _switch_off(self, at: int) -> None:
        """Run the steps with one thing switched off at a time, until one agrees."""
        ways: list[Way] = [WITHOUT_REMAPPER]
        if self.function.mode == "xla":
            ways = [WITHOUT_JIT, WITHOUT_REMAPPER]
        for way in ways:
            try:
                steps, differences = self._steps(way, last=at)
            except DoctorError:
                continue
            for number, (step, found) in enumerate(zip(steps, differences, strict=True)):
                self._add(way, number, step, found, None)
            if len(steps) == at + 1 and not any(found.kind for found in differences):
                return

    def _add(
        self, way: Way, number: int, step: Step, found: Difference, parting: Parting | None
    ) -> None:
        mode = self.function.mode if way == AS_TRAINED else "graph"
        place = parting or Parting()
        self._builder.add(
            "executions",
            step=number,
            execution=way,
            mode=mode,
            remapper=way != WITHOUT_REMAPPER,
            onednn=seams.onednn_on(),
            loss=step.loss,
            measured=step.measured,
            loss_finite=step.measured and math.isfinite(step.loss),
            state_finite=not step.bad_variable and not step.ran.raised,
            raised=step.ran.raised,
            raised_type=step.ran.raised_type,
            differs=found.kind,
            difference=found.size,
            tolerance=self._allowed(found.variable if found.kind == "value" else ""),
            comparable=self.comparable,
            variable=found.variable or step.bad_variable,
            layer=place.layer,
            layer_class=place.layer_class,
            phase=place.phase,
            reference_nonfinite=place.reference_nonfinite,
            nonfinite=place.nonfinite,
            seconds=step.seconds,
        )


def failure_of(steps: Sequence[Step]) -> tuple[int, str] | None:
    """Return (step, what is wrong) of the first step that failed in one execution, or None."""
    return next(((i, step.failure) for i, step in enumerate(steps) if step.failure), None)


def _nonfinite(row: dict[str, Any]) -> int:
    return int(row["nan"] + row["posinf"] + row["neginf"])
