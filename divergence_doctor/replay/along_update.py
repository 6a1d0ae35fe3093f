"""Was the step too long? The loss along the real update, its curvature, and what it promised.

The failing steps are run once more, unwatched; what each of the first of them did to the weights is
kept as the update D. From the state before such a step the loss is then asked for at w + k D, with
the same batch and the same random numbers at every k, by the model's own ``train_step`` stopped
before its gradients. One product of the Hessian with D gives the curvature on the way.
"""

from __future__ import annotations

import math
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.feeding import tensors
from divergence_doctor.replay.state import Snapshot, seed_everything
from divergence_doctor.replay.train_function import REFERENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from divergence_doctor.replay.bench import Bench
    from divergence_doctor.replay.feeding import Fed
    from divergence_doctor.trace import TraceBuilder

#: The first steps are measured (a single step of Adam changes its sign from one to the next, seen
#: at healthy rates), and the one after which the loss rose the most.
FIRST: Final = 2
#: Multiples of the update at which the loss is asked for, two in each decade.
SCALES: Final = tuple(10.0 ** (half / 2) for half in range(-10, 3))
#: Halvings, on a log scale, of the gap between the longest step that does not raise the loss and
#: the next that does: half a decade becomes 10 ** (1 / 16), fifteen percent.
_HALVINGS: Final = 3
#: The loss of float32 is not known better than this part of it.
_ROUNDING: Final = 1e-6


def measure(bench: Bench, builder: TraceBuilder) -> None:
    """Measure the first updates of the failing run, and add tables directions and along_update.

    Nothing is added where no step before the failure has a finite loss and a finite update, where
    the step takes gradients of several losses in turn (which of them should fall is then open),
    and where it fails only as compiled.

    Args:
        bench: the failing step.
        builder: the trace of the replay.
    """
    wanted = _worth_it(builder)
    if not wanted or bench.execution != REFERENCE:
        return
    rates = {row["step"]: row["learning_rate"] for row in builder.rows("steps")}
    as_found = Snapshot(bench.model)
    try:
        _measure(bench, wanted, rates, builder)
    finally:
        as_found.restore()


def _measure(
    bench: Bench, wanted: Sequence[int], rates: dict[int, float], builder: TraceBuilder
) -> None:
    with _eagerly():
        lines = [_Line(bench, taken) for taken in _updates(bench, wanted)]
        lines = [line for line in lines if line.look()]
        shown = next((line for line in lines if line.rises), lines[0] if lines else None)
        for line in lines:
            line.record(builder, rate=rates[line.step], whole=line is shown)


def _worth_it(builder: TraceBuilder) -> list[int]:
    """Return the steps to measure: the first, and the one after which the loss rose the most."""
    rows = builder.rows("steps")
    sound = [
        row["step"]
        for row in rows
        if row["loss_finite"] and row["gradients_finite"] and not row["skipped"]
    ]
    losses = [abs(row["loss"]) for row in rows]
    rises = {
        step: losses[step + 1] / losses[step]
        for step in sound
        if step + 1 < len(losses) and math.isfinite(losses[step + 1]) and losses[step] > 0
    }
    steepest = [max(rises, key=lambda step: rises[step])] if rises else []
    return sorted({*sound[:FIRST], *steepest})


@dataclass(frozen=True, slots=True)
class _Taken:
    """One real update: the state before it, and what it added to each trainable variable."""

    step: int
    fed: Fed
    before: Snapshot
    start: tuple[NDArray[Any], ...]
    update: tuple[NDArray[Any], ...]


def _updates(bench: Bench, wanted: Sequence[int]) -> list[_Taken]:
    """Run the steps once more, and return the wanted updates as far as they are finite."""
    taken: list[_Taken] = []
    counted = _Counted(bench.model)

    @contextmanager
    def keeping(step: int, fed: Fed, _data: Any) -> Iterator[None]:
        before = Snapshot(bench.model)
        variables = bench.model.trainable_variables
        start = tuple(seams.values_of(variable) for variable in variables)
        with counted.counting():
            yield
        with np.errstate(all="ignore"):
            update = tuple(
                seams.values_of(variable).astype(np.float64) - old.astype(np.float64)
                for variable, old in zip(variables, start, strict=True)
            )
        moved = any(part.any() for part in update)
        if step in wanted and moved and all(np.isfinite(part).all() for part in update):
            taken.append(_Taken(step, fed, before, start, update))

    bench.run(watching=keeping, steps=max(wanted) + 1)
    return taken if counted.most == 1 else []


@final
class _Counted:
    """How often a step asks for gradients of the model's weights."""

    def __init__(self, model: Any) -> None:
        self._own = {id(variable) for variable in model.trainable_variables}
        #: The most in one step.
        self.most = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        found = 0

        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            def gradient(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
                nonlocal found
                found += _has_any(sources, self._own)
                return original(tape, target, sources, *args, **kwargs)

            return gradient

        with seams.patched(seams.tape_class(), "gradient", make):
            yield
        self.most = max(self.most, found)


class _Reached(BaseException):
    """The step has come to its gradients; past ``except Exception`` of the user's own code."""


@final
class _Line:
    """The loss along one update."""

    def __init__(self, bench: Bench, taken: _Taken) -> None:
        self._model = bench.model
        self._seed = bench.seed
        self._taken = taken
        self._data = tensors(taken.fed)
        self._own = {id(variable) for variable in bench.model.trainable_variables}
        self._known: dict[float, float] = {}
        self._slope = self._curvature = math.nan
        #: What the gradient's target is to the loss: loss scaling multiplies it.
        self._unit = 1.0

    @property
    def step(self) -> int:
        """The step that took the update."""
        return self._taken.step

    @property
    def rises(self) -> bool:
        """The step raised the loss of its own batch."""
        return not self._known[1.0] <= self._known[0.0]

    def look(self) -> bool:
        """Ask for what one step is judged by, and say whether there is anything to judge."""
        try:
            loss, self._slope, self._curvature = self._derivatives()
            self._known[0.0] = loss
            if not (math.isfinite(loss) and math.isfinite(self._slope)):
                return False
            self.loss(1.0)
        finally:
            self._taken.before.restore()
        return True

    def record(self, builder: TraceBuilder, *, rate: float, whole: bool) -> None:
        """Add the rows of this update, the loss at every scale where the whole line is wanted."""
        try:
            longest = self._longest() if whole else math.nan
        finally:
            self._taken.before.restore()
        loss, after = self._known[0.0], self._known[1.0]
        builder.add(
            "directions",
            step=self.step,
            loss=loss,
            loss_after=after,
            slope=self._slope,
            curvature=self._curvature,
            overshoot=_quotient(0.5 * self._curvature, abs(self._slope)),
            gain=_quotient(after - loss, self._slope),
            longest=longest,
            learning_rate=rate,
        )
        for scale, value in sorted(self._known.items()):
            builder.add("along_update", step=self.step, scale=scale, loss=value)

    def loss(self, scale: float) -> float:
        """Return L(w + k D), NaN where the step raises there."""
        if scale not in self._known:
            found: list[float] = []

            def seen(_original: Any, _tape: Any, target: Any, _sources: Any) -> None:
                found.append(_sum_of(target))

            self._run(scale, seen)
            self._known[scale] = found[0] / self._unit if found else math.nan
        return self._known[scale]

    def _longest(self) -> float:
        """Return the largest k up to which the loss does not rise; 0 where it does at once."""
        bound = self._known[0.0] + _ROUNDING * abs(self._known[0.0])
        low, high = 0.0, math.inf
        for scale in SCALES:
            value = self.loss(scale)
            if math.isinf(high) and not value <= bound:
                high = scale
            elif math.isinf(high):
                low = scale
        if low == 0.0 or math.isinf(high):
            return low
        for _ in range(_HALVINGS):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.loss(middle) <= bound else (low, middle)
        return low

    def _derivatives(self) -> tuple[float, float, float]:
        """Return loss, g'D and D'HD at the weights before the step."""
        import tensorflow as tf

        variables = self._model.trainable_variables
        update = [
            tf.constant(part.astype(np.float32), dtype=variable.dtype)
            for part, variable in zip(self._taken.update, variables, strict=True)
        ]
        towards = dict(zip(map(id, variables), update, strict=True))
        found: list[Any] = []

        def seen(original: Any, tape: Any, target: Any, sources: Any) -> None:
            flat = tf.nest.flatten(sources)
            gradients = original(tape, target, flat)
            parts = [
                tf.reduce_sum(
                    tf.cast(tf.convert_to_tensor(gradient), tf.float32)
                    * tf.cast(towards[id(source)], tf.float32)
                )
                for gradient, source in zip(gradients, flat, strict=True)
                if gradient is not None and id(source) in towards
            ]
            found.extend((_sum_of(target), tf.add_n(parts) if parts else None))

        watched = [getattr(variable, "_value", variable) for variable in variables]
        with tf.GradientTape() as outer:
            told = self._run(0.0, seen)
        if not found or found[1] is None:
            return math.nan, math.nan, math.nan
        target, slope = found
        if math.isfinite(told) and told != 0 and math.isfinite(target) and target != 0:
            self._unit = target / told
        try:
            along = outer.gradient(slope, watched)
        except (LookupError, NotImplementedError, tf.errors.OpError):
            along = None  # an op of the backward pass has no derivative of its own
        curvature = math.nan if along is None else _product(along, self._taken.update)
        return target / self._unit, float(slope) / self._unit, curvature / self._unit

    def _run(self, scale: float, seen: Callable[..., None]) -> float:
        """Run the step from w + k D up to its gradients; return the loss that it computed."""
        import keras
        import tensorflow as tf

        self._taken.before.restore()
        parts = zip(
            self._model.trainable_variables, self._taken.start, self._taken.update, strict=True
        )
        for variable, old, part in parts:
            if scale:
                variable.assign((old.astype(np.float64) + scale * part).astype(old.dtype))
        seed_everything(self._seed)
        told: list[float] = []
        gradient = _stopping(self._own, seen)
        with (
            seams.patched(seams.tape_class(), "gradient", gradient),
            seams.patched(seams.trainer_class(), "_compute_loss", _telling(self._model, told)),
            # A step that raises on its numbers (a matrix that cannot be inverted) has no loss.
            suppress(_Reached, ArithmeticError, np.linalg.LinAlgError, tf.errors.OpError),
        ):
            self._model.train_step(keras.utils.pack_x_y_sample_weight(*self._data))
        return told[0] if told else math.nan


def _stopping(
    own: set[int], seen: Callable[..., None]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return what ends the step where it asks for the gradients of the model's weights."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def gradient(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
            if not _has_any(sources, own):
                return original(tape, target, sources, *args, **kwargs)
            seen(original, tape, target, sources)
            raise _Reached

        return gradient

    return make


def _telling(model: Any, told: list[float]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def compute(of: Any, *args: Any, **kwargs: Any) -> Any:
            loss = original(of, *args, **kwargs)
            if of is model:
                told.append(_sum_of(loss))
            return loss

        return compute

    return make


@contextmanager
def _eagerly() -> Iterator[None]:
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)  # noqa: FBT003 - TensorFlow's signature
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _has_any(sources: Any, own: set[int]) -> bool:
    import tensorflow as tf

    return any(id(source) in own for source in tf.nest.flatten(sources))


def _sum_of(target: Any) -> float:
    import tensorflow as tf

    return float(sum(np.asarray(part, dtype=np.float64).sum() for part in tf.nest.flatten(target)))


def _product(along: Sequence[Any], update: Sequence[NDArray[Any]]) -> float:
    import tensorflow as tf

    with np.errstate(all="ignore"):
        return float(
            sum(
                np.sum(np.asarray(tf.convert_to_tensor(part), dtype=np.float64) * towards)
                for part, towards in zip(along, update, strict=True)
                if part is not None
            )
        )


def _quotient(above: float, below: float) -> float:
    return above / below if below else math.nan
