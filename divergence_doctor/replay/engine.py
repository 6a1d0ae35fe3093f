"""What happens when the step is run again? Up to N watched steps, ended by the first failure."""

from __future__ import annotations

import gc
import math
import re
import time
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints import innermost, optimizers_of
from divergence_doctor.errors import LimitError, UsageError
from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.anatomy import describe_model
from divergence_doctor.replay.defects import defects
from divergence_doctor.replay.feeding import tensors
from divergence_doctor.replay.harmless import harmless
from divergence_doctor.replay.hyperparameters import hyperparameters
from divergence_doctor.replay.measuring import Measuring
from divergence_doctor.replay.normalization import compared, moving_statistics
from divergence_doctor.replay.outcome import Judge
from divergence_doctor.replay.source import of_exception, raised_by_us
from divergence_doctor.replay.state import (
    Held,
    build_optimizer,
    model_variables,
    seed_everything,
    slot_variables,
)
from divergence_doctor.replay.support import check_supported
from divergence_doctor.replay.watch import StepWatch
from divergence_doctor.stats import LARGE, extent, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from divergence_doctor.replay.feeding import Fed
    from divergence_doctor.replay.opstream import OpStream
    from divergence_doctor.replay.state import Snapshot
    from divergence_doctor.trace import TraceBuilder

#: Objects made before the collector looks for dead ones (Python's own: 700).
_SELDOM: Final = 2_000
#: What a variable held before the step, or a copy of it that is, or will be, there.
_Kept: TypeAlias = "NDArray[Any] | Future[NDArray[Any]]"
#: Steps that may follow the asked ones while loss scaling still searches for a scale that fits:
#: from 2**15, the default of Keras, it is halved to 2**-14 in 29 skipped steps.
_SCALE_SEARCH: Final = 40


@dataclass(frozen=True, slots=True)
class Ran:
    """What one run of ``train_step`` came to: its logs, or what it raised."""

    logs: Any = None
    raised: str = ""
    raised_type: str = ""
    raised_op: str = ""
    source: str = ""
    stack: str = ""


def run_step(
    model: Any, data: Any, step: Callable[[Any], Any] | None = None, *, fresh: bool = True
) -> Ran:
    """Run the model's own ``train_step`` on (x, y, sample_weight), functions eagerly.

    ``step`` runs in its place, where it is given: the same step, traced or compiled. With ``fresh``
    the metrics start anew, so that the logged loss is that of the step alone.

    They are packed as ``fit`` packs them: a custom step may well say ``x, y = data``. Errors that
    come from the numbers (labels, indices, a matrix that cannot be inverted) are part of the answer
    and returned.

    Raises:
        LimitError: the step ran out of memory.
        UsageError: the step cannot run at all on this batch.
    """
    import keras
    import tensorflow as tf

    try:
        if fresh:
            model.reset_metrics()
        run = step or model.train_step
        return Ran(logs=run(keras.utils.pack_x_y_sample_weight(*data)))
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise LimitError(
            "out-of-memory",
            "the step ran out of memory",
            why=clean(str(error)[:300]),
            fix="replay fewer samples, or on a machine with more memory",
        ) from error
    except (tf.errors.InvalidArgumentError, ArithmeticError, np.linalg.LinAlgError) as error:
        message = _one_line(getattr(error, "message", None) or error)
        if _is_about_shapes(message):
            raise _cannot_run(error, message) from error
        source, stack = of_exception(error)
        found = re.search(r"\[Op:(\w+)\]", str(error)) or re.search(
            r"\{\{node (?:[^}]*/)?(\w+?)(?:_\d+)?\}\}", str(error)
        )
        return Ran(
            raised=message.split(" [Op:")[0],
            raised_type=type(error).__name__,
            raised_op=found.group(1) if found else "",
            source=source,
            stack=stack,
        )
    except Exception as error:
        if raised_by_us(error):
            raise
        raise _cannot_run(error, _one_line(error)) from error


def _one_line(error: Any) -> str:
    """Return an error's text without the colours and line feeds that Keras puts into it."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", _behind_stack(str(error)))
    plain = re.sub(r"^\{\{.*?\}\} ", "", plain)
    return clean(" ".join(plain.split()), 600)


def _behind_stack(text: str) -> str:
    """Return what an op of a graph said: its error tells the stack of its making first."""
    if not text.startswith("Graph execution error"):
        return text
    said = re.split(r'\n  File "[^\n]*', text)[-1]
    return said.partition("\n\t [[")[0].strip()


def _is_about_shapes(message: str) -> bool:
    return bool(
        re.search(
            r"ncompatible shapes|broadcastable shapes|same first dimension|Matrix size-incompatible"
            r"|must be broadcastable|shapes? .* (?:must|do not) match",
            message,
        )
    )


def _cannot_run(error: Exception, message: str) -> UsageError:
    source, _ = of_exception(error)
    where = f" at {source}" if source else ""
    return UsageError(
        "step-cannot-run",
        f"the model's train_step cannot run on this batch: {type(error).__name__}{where}",
        why=message or "no message",
        fix="give the batch the shapes and dtypes that the model was trained with",
    )


def watch_for(
    model: Any,
    builder: TraceBuilder,
    fed: Fed,
    data: Any,
    *,
    step: int,
    progress: Callable[[str, str], None] = lambda _phase, _layer: None,
    measuring: Measuring | None = None,
    state: Sequence[tuple[Any, str]] | None = None,
) -> StepWatch:
    """Return a watch for one step that knows the model's state and the batch by name.

    Args:
        model: the model whose step it is.
        builder: where the rows go.
        fed: the batch of the step.
        data: its tensors, as the step takes them.
        step: number of the step.
        progress: told (phase, layer) as the step goes along.
        measuring: measures the tensors of the step; None where nobody asks for their rows.
        state: the variables with their paths, where they are at hand.
    """
    if state is None:
        state = [
            *((held.variable, held.path) for held in model_variables(model)),
            *((variable, path) for variable, path, _ in slot_variables(model)),
        ]
    handles = {
        seams.identity(handle): path
        for variable, path in state
        for handle in [seams.handle_of(variable)]
        if handle is not None
    }
    watch = StepWatch(
        builder,
        step=step,
        names={},
        handles=handles,
        samples=fed.samples,
        model=model,
        progress=progress,
        measuring=measuring,
    )
    for name, tensor in fed.named(data).items():
        watch.see_leaf(name, tensor)
    return watch


@final
class Engine:
    """Replays the steps of one model on one sequence of batches, into a trace.

    Args:
        model: a built and compiled Keras model.
        batches: one fed batch per step; the sequence starts again when it is over.
        builder: where the rows go.
        progress: told (step, phase, layer) as the replay goes along.
    """

    def __init__(
        self,
        model: Any,
        batches: Sequence[Fed],
        builder: TraceBuilder,
        progress: Callable[[int, str, str], None] = lambda _step, _phase, _layer: None,
    ) -> None:
        self.model = model
        self.batches = batches
        self.builder = builder
        self._progress = progress
        self._judge = Judge(builder)
        self._measuring = Measuring(builder)
        #: What was last measured of each variable: after one step is before the next.
        self._weights: dict[int, dict[str, Any]] = {}
        self._slot_rows: dict[int, dict[str, Any]] = {}
        #: The watched stream of the step that ran last: the failing one, once it has failed.
        self.last_stream: OpStream | None = None

    def replay(self, *, steps: int, seed: int, start: Snapshot | None = None) -> None:
        """Run up to ``steps`` watched steps and record the outcome in the trace's context.

        Args:
            steps: steps to run at most; the first failing step is the last.
            seed: seed of Python, NumPy, TensorFlow and Keras.
            start: the state before the first step, where it knows the random state too.
        """
        check_supported(self.model)
        with self.ready():
            describe_model(self.model, self.batches[0], self.builder)
            if start is None:
                seed_everything(seed)
            else:
                start.draw_again(seed)
            for step in range(steps + _SCALE_SEARCH):
                self.step(step)
                if self._judge.settled(step, asked=steps):
                    break
        self.builder.describe(**self._judge.verdict())

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Set up what every step needs: functions that run eagerly, slots, a thread to measure."""
        import tensorflow as tf

        eagerly = tf.config.functions_run_eagerly()
        tf.config.run_functions_eagerly(True)  # noqa: FBT003 - TensorFlow's signature
        # A step makes objects by the thousand; the collector need not walk through all that
        # TensorFlow and the model are made of each time that it looks for dead ones, nor look
        # for them at every hundredth op.
        often = gc.get_threshold()
        gc.freeze()
        gc.set_threshold(max(often[0], _SELDOM), *often[1:])
        try:
            build_optimizer(self.model)
            yield
        finally:
            gc.set_threshold(*often)
            gc.unfreeze()
            tf.config.run_functions_eagerly(eagerly)
            self._measuring.close()

    def step(self, step: int) -> None:
        """Run one watched step and record it; inside :meth:`ready`."""
        number = step % len(self.batches)
        data = tensors(self.batches[number])
        variables = model_variables(self.model)
        before = self._weights_before(step, variables)
        moving = moving_statistics(self.model)
        slots = list(slot_variables(self.model))
        self._slots_before(step, slots)
        state = [
            *((held.variable, held.path) for held in variables),
            *((variable, path) for variable, path, _ in slots),
        ]
        scale, rate = loss_scale_of(self.model), learning_rate_of(self.model)
        iterations = _iterations(self.model)
        for row in hyperparameters(self.model, step):
            self.builder.add("hyperparameters", **row)
        watch = self._watch(step, data, number, state)
        watch.stream.trust(self._sound(state))
        start = time.perf_counter()
        with watch.watching():
            ran = run_step(self.model, data)
        watch.settle()
        seconds = time.perf_counter() - start
        watch.see_logs(ran.logs)
        if ran.raised_op == "CheckNumerics":
            watch.stream.consequences.reach_everything("loss")
        after = self._weights_after(step, variables, before, watch)
        slots_finite = self._slots_after(step)
        for row in compared(moving, step=step, calls=watch.calls_of):
            self.builder.add("normalizations", **row)
        watch.stream.consequences.settle()
        watch.stream.consequences.name_term(watch.terms)
        self.last_stream = watch.stream
        for table, row in watch.stream.rows(step):
            self.builder.add(table, **row)
        gradients_finite = all(finite for _, finite in watch.gradients.values())
        loss = _loss_of(watch, ran.logs, scale)
        skipped = _skipped(
            scale, iterations, _iterations(self.model), gradients_finite=gradients_finite
        )
        for row in harmless(watch.stream, step=step, skipped=skipped):
            self.builder.add("harmless", **row)
        self.builder.add(
            "steps",
            step=step,
            batch=number,
            loss=loss,
            learning_rate=rate,
            loss_scale=scale,
            gradient_norm=_norm(
                norm if finite else math.nan for norm, finite in watch.gradients.values()
            )
            / _divisor(scale),
            update_norm=after.update_norm,
            weight_norm=after.weight_norm,
            loss_finite=math.isfinite(loss) if not ran.raised else False,
            gradients_finite=gradients_finite,
            state_finite=after.finite and slots_finite,
            skipped=skipped,
            ops=len(watch.stream.ops),
            seconds=seconds,
            raised=ran.raised,
            raised_type=ran.raised_type,
            raised_op=ran.raised_op,
            raised_layer=watch.reached.layer if ran.raised else "",
            raised_phase=watch.reached_phase if ran.raised else "",
            raised_source=ran.source,
            raised_stack=ran.stack,
        )

    def _watch(
        self, step: int, data: Any, number: int, state: Sequence[tuple[Any, str]]
    ) -> StepWatch:
        return watch_for(
            self.model,
            self.builder,
            self.batches[number],
            data,
            step=step,
            progress=lambda phase, layer: self._progress(step, phase, layer),
            measuring=self._measuring,
            state=state,
        )

    def _weights_before(self, step: int, variables: list[Held]) -> dict[int, _Kept]:
        """Record the weights, measured at the end of the step before, and keep the trainable.

        While TensorFlow's own memory is held, an update goes elsewhere: into fresh memory, which
        costs more than a copy made of a large variable while the step is still far from it.
        """
        kept: dict[int, _Kept] = {}
        for order, held in enumerate(variables):
            values = seams.values_of(held.variable)
            row = self._weights.get(id(held.variable)) or _stats(values)
            self._weights[id(held.variable)] = row
            self._weight(step, order, "before", held, row)
            if step == 0:
                self._defects("weights", held.path, values, row)
            if held.trainable:
                key = id(held.variable)
                large = values.size >= LARGE
                kept[key] = self._measuring.copied(key, values) if large else values
        return kept

    def _weight(self, step: int, order: int, when: str, held: Held, row: dict[str, Any]) -> None:
        self.builder.add(
            "weights",
            step=step,
            order=order,
            when=when,
            variable=held.path,
            layer=held.layer,
            layer_class=held.layer_class,
            trainable=held.trainable,
            **row,
        )

    def _weights_after(
        self, step: int, variables: list[Held], kept: dict[int, _Kept], watch: StepWatch
    ) -> _After:
        finite, updates, weights = True, [], []
        new = [seams.values_of(held.variable) for held in variables]
        measured = [self._measuring.array(values) for values in new]
        for order, (held, values, found) in enumerate(zip(variables, new, measured, strict=True)):
            before = self._weights.get(id(held.variable))
            was = kept.pop(id(held.variable), None)
            old = was.result() if isinstance(was, Future) else was
            delta = None if old is None else {**_kind(values), **summarize(values, minus=old)}
            row = self._weights[id(held.variable)] = found.result()
            good = self._weight_is_sound(held, row)
            finite &= good
            if delta is not None and before is not None:
                weights.append(before["l2"])
                updates.append(self._update(step, order, held, delta, before, row))
            if not good:
                self._weight(step, order, "after", held, row)
                self._blame_write(held, row, watch)
        return _After(finite=finite, update_norm=_norm(updates), weight_norm=_norm(weights))

    @staticmethod
    def _weight_is_sound(held: Held, row: dict[str, Any]) -> bool:
        impossible = "variance" in held.path.rpartition("/")[2] and row["negative"] > 0
        return _finite(row) and not impossible

    @staticmethod
    def _blame_write(held: Held, row: dict[str, Any], watch: StepWatch) -> None:
        handle = seams.handle_of(held.variable)
        if handle is not None and not _finite(row) and not watch.stream.events:
            watch.stream.overflowed_on_write(seams.identity(handle))

    def _update(
        self,
        step: int,
        order: int,
        held: Held,
        row: dict[str, Any],
        before: dict[str, Any],
        after: dict[str, Any],
    ) -> float:
        self.builder.add(
            "updates",
            step=step,
            order=order,
            variable=held.path,
            layer=held.layer,
            ratio=row["l2"] / before["l2"] if before["l2"] > 0 else math.nan,
            after_nonfinite=after["nan"] + after["posinf"] + after["neginf"],
            **row,
        )
        return float(row["l2"]) if _finite(row) else math.nan

    def _slots_before(self, step: int, slots: Sequence[tuple[Any, str, str]]) -> None:
        """Record the optimizer's slots: in full at the start, else in brief, as last measured."""
        for order, (variable, path, optimizer) in enumerate(slots):
            row = self._slot_rows.get(id(variable))
            if row is None:
                values = seams.values_of(variable)
                row = self._slot_rows[id(variable)] = _stats(values)
                if step == 0:
                    self._defects("slots", path, values, row, optimizer=optimizer)
            self._slot(step, order, "before", (path, optimizer), row)

    def _defects(
        self,
        owner: str,
        path: str,
        values: NDArray[Any],
        row: dict[str, Any],
        *,
        optimizer: str = "",
    ) -> None:
        """Record where the bad elements of a variable lie as it was loaded."""
        if not _finite(row) or row["negative"]:
            for defect in defects(owner, path, values, optimizer=optimizer):
                self.builder.add("defects", **defect)

    def _slots_after(self, step: int) -> bool:
        """Measure the slots in brief; record those that are not finite in full."""
        finite = True
        for order, (variable, path, optimizer) in enumerate(slot_variables(self.model)):
            values = seams.values_of(variable)
            row = _brief(values)
            if not _finite(row):
                finite, row = False, _stats(values)
                self._slot(step, order, "after", (path, optimizer), row)
            self._slot_rows[id(variable)] = row
        return finite

    def _slot(
        self, step: int, order: int, when: str, slot: tuple[str, str], row: dict[str, Any]
    ) -> None:
        path, optimizer = slot
        self.builder.add(
            "slots", step=step, order=order, when=when, variable=path, optimizer=optimizer, **row
        )

    def _sound(self, state: Sequence[tuple[Any, str]]) -> Iterator[tuple[int, float]]:
        """Yield the handles of the variables that were last found finite, and their magnitudes."""
        measured = {**self._weights, **self._slot_rows}
        for variable, _ in state:
            row, handle = measured.get(id(variable)), seams.handle_of(variable)
            if row is not None and handle is not None and _finite(row):
                yield seams.identity(handle), row.get("absmax", math.inf)


@dataclass(frozen=True, slots=True)
class _After:
    finite: bool
    update_norm: float
    weight_norm: float


def _stats(values: NDArray[Any]) -> dict[str, Any]:
    return {**_kind(values), **summarize(values)}


def _brief(values: NDArray[Any]) -> dict[str, Any]:
    """Return the size and range of values that are finite; of others, that one of them is not."""
    row = {**_kind(values), **dict.fromkeys(("nan", "posinf", "neginf"), 0), "size": values.size}
    found = extent(values)
    if found is None:
        return {**row, "nan": int(values.size > 0)}
    low, high = found
    return {**row, "min": low, "max": high, "absmax": max(abs(low), abs(high))}


def _kind(values: NDArray[Any]) -> dict[str, Any]:
    return {"dtype": str(values.dtype), "shape": "x".join(str(size) for size in values.shape)}


def _finite(row: dict[str, Any]) -> bool:
    return not (row["nan"] or row["posinf"] or row["neginf"])


def _norm(parts: Any) -> float:
    return math.hypot(*parts)


def _loss_of(watch: StepWatch, logs: Any, scale: float) -> float:
    """Return the step's loss: as computed, else as logged (metrics start anew each step)."""
    if watch.loss is not None:
        return watch.loss
    if isinstance(logs, dict) and "loss" in logs:
        return float(np.asarray(logs["loss"]).sum())
    if watch.targets:
        return sum(watch.targets) / _divisor(scale)
    return math.nan


def _divisor(scale: float) -> float:
    """Return what a scaled loss is divided by; 1 without a scale, or with one that is none."""
    return scale if math.isfinite(scale) and scale != 0 else 1.0


def loss_scale_of(model: Any) -> float:
    """Return the loss scale of a model's optimizer; NaN without one."""
    for optimizer in optimizers_of(model):
        scale = getattr(optimizer, "dynamic_scale", None)
        if scale is not None:
            return float(np.asarray(scale))
    return math.nan


def learning_rate_of(model: Any) -> float:
    """Return the learning rate of a model's optimizer; NaN when unknown."""
    for optimizer in optimizers_of(model):
        try:
            return float(np.asarray(innermost(optimizer).learning_rate))
        except (AttributeError, TypeError, ValueError):
            continue
    return math.nan


def _iterations(model: Any) -> tuple[int, ...]:
    return tuple(int(np.asarray(innermost(opt).iterations)) for opt in optimizers_of(model))


def _skipped(
    scale: float, before: tuple[int, ...], after: tuple[int, ...], *, gradients_finite: bool
) -> bool:
    return math.isfinite(scale) and not gradients_finite and before == after
