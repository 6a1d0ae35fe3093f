"""How is a training step watched without changing it? Layers, losses, gradients and the update.

The model's own ``train_step`` runs, eagerly. What it calls on the way (layers, losses, tape and
optimizer) is wrapped for the time of the step; every tensor is measured as it passes and then let
go. The wrappers hand on the very numbers they were given: a watched step and a plain one agree to
the bit.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor._rows import VALUES
from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.clock import Clock
from divergence_doctor.replay.ops import Place
from divergence_doctor.replay.opstream import OpStream
from divergence_doctor.replay.source import known_from, users_line
from divergence_doctor.replay.state import layer_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from divergence_doctor.replay.measuring import Measured, Measuring
    from divergence_doctor.trace import TraceBuilder

#: Calls of one layer in one step whose tensors are recorded; a cell of an RNN is called once per
#: time step, and a thousand of them tell the story of its growth.
_CALLS = 1_024
#: Samples whose losses are recorded one by one.
_SAMPLE_LOSSES = 4_096


@final
class StepWatch:
    """Watches one step and writes what it sees into a trace.

    Args:
        builder: where the rows go.
        step: number of the replayed step.
        stream: the stream of ops of this step.
        names: names of leaf tensors by identity, e.g. ``("batch", "x")``.
        handles: paths of the state's variables by the identity of their resource handle.
        samples: number of samples in the batch.
        model: the model whose step it is.
        progress: told (phase, layer) as the step goes along.
        measuring: measures the tensors of the step; None where nobody asks for their rows.
    """

    def __init__(
        self,
        builder: TraceBuilder,
        *,
        step: int,
        names: dict[int, tuple[str, str]],
        handles: dict[int, str],
        samples: int,
        model: Any,
        progress: Callable[[str, str], None],
        measuring: Measuring | None = None,
    ) -> None:
        self.builder = builder
        self.step = step
        self.model = model
        self.stream = OpStream(
            place=lambda: self._place, phase=lambda: self.phase, names=names, handles=handles,
            samples=samples,
        )  # fmt: skip
        self.phase = "forward"
        self.reached, self.reached_phase = Place(), "forward"
        self._noted = False
        self.loss: float | None = None
        self.targets: list[float] = []
        #: For each trainable variable, by identity: norm of its gradient, and whether it is finite.
        self.gradients: dict[int, tuple[float, bool]] = {}
        self._gradients: dict[int, Measured] = {}
        self._measuring = measuring
        self._paths: dict[int, tuple[str, Any]] = {}
        self._samples = samples
        self._order = 0
        self._back_order = 0
        self._place = Place()
        self._calls: dict[str, int] = {}
        self._clock = Clock(self._direct_call)
        #: The places that share a tap, by the identity of the tensor that came out of it.
        self._taps: dict[int, list[Place]] = {}
        self._loss_names: list[str] = []
        self._loss_calls: dict[int, int] = {}
        #: Terms of the loss by name, with the identity of their tensor.
        self.terms: list[tuple[str, int]] = []
        #: Inside an optimizer, whose update is not over with the first variable.
        self._updating = False
        self._progress = progress

    def settle(self) -> None:
        """Wait for what is still being measured, and note the gradients' norms."""
        if self._measuring is not None:
            self._measuring.settle()
        self.gradients = {
            key: (row["l2"], _is_finite(row))
            for key, measured in self._gradients.items()
            for row in [measured.result()]
        }

    def _record(self, table: str, tensor: Any, /, **row: Any) -> Measured | None:
        if self._measuring is None:
            return None
        return self._measuring.add(table, tensor, **row)

    @property
    def place(self) -> Place:
        """Where in the model the step stands now."""
        return self._place

    def calls_of(self, path: str) -> int:
        """Return how often the layer of a path has been called."""
        return self._calls.get(path, 0)

    def see_leaf(self, name: str, tensor: Any) -> None:
        """Tell the watch of one array of the batch, before the step."""
        whole, tensor = tensor, _values(tensor)
        if not seams.has_values(tensor):
            return
        if hasattr(whole, "row_splits"):
            name += VALUES
        self.stream.name_leaf(tensor, "batch", name, by_sample=tensor is whole)
        if _is_floating(tensor) and name.partition("/")[0] not in {"y", "sample_weight"}:
            self._record(
                "activations", tensor, step=self.step, order=-1, layer="", layer_class="Input",
                call=0, role="input",
            )  # fmt: skip

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch whatever runs inside, and put everything back afterwards."""
        with ExitStack() as stack:
            enter = stack.enter_context
            enter(seams.patched(seams.layer_class(), "__call__", self._layer_call))
            enter(seams.patched(seams.operation_class(), "__call__", self._operation_call))
            enter(seams.patched(seams.trainer_class(), "_compute_loss", self._compute_loss))
            enter(
                seams.patched(
                    seams.trainer_class(), "_aggregate_additional_loss", self._additional_loss
                )
            )
            enter(seams.patched(seams.base_loss_class(), "__call__", self._loss_call))
            enter(seams.patched(seams.loss_module(), "reduce_weighted_values", self._reduce_values))
            enter(seams.patched(seams.tape_class(), "gradient", self._tape_gradient))
            enter(seams.patched(seams.optimizer_class(), "apply", self._update))
            enter(seams.patched(seams.loss_scale_class(), "apply", self._update))
            enter(self._clock.running())
            enter(seams.patched(seams.optimizer_class(), "_clip_gradients", self._clip))
            for owner, name in seams.clipping_functions():
                enter(seams.patched(owner, name, self._clip))
            enter(seams.patched(seams.record_module(), "record_operation", self._own_gradient))
            enter(seams.gradient_function(self.stream.gradient_wrapper))
            enter(seams.op_callback(self.stream.on_op))
            stack.callback(self.stream.forget_calls)
            yield

    # ------------------------------------------------------------------ layers

    def _layer_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            before = watch._enter(layer)
            try:
                return original(layer, *args, **kwargs)
            except BaseException:
                watch._note_where()
                raise
            finally:
                watch._place = before

        known_from(call)
        return call

    def _direct_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap what runs a layer's ``call`` without going through its ``__call__``."""
        return self._layer_call(
            lambda layer, *args, **kwargs: self._see_outputs(original(layer, *args, **kwargs))
        )

    def _operation_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch, layers = self, seams.layer_class()

        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(operation, layers):
                # Here, and not in the layer's own `__call__`: an activity regulariser that comes
                # between the two must find the output that everything else finds, or the gradient
                # is summed up in another order.
                return watch._see_outputs(original(operation, *args, **kwargs))
            before = watch._enter(operation)
            try:
                return watch._see_outputs(original(operation, *args, **kwargs))
            except BaseException:
                watch._note_where()
                raise
            finally:
                watch._place = before

        known_from(call)
        return call

    def _at_line(self) -> Place:
        """Note the user's line at the present place, and return the place as it was."""
        before = self._place
        self._place = replace(before, line=users_line(2, before.line))
        return before

    def _note_where(self) -> None:
        """Keep the innermost place that an exception leaves from."""
        if not self._noted:
            self._noted = True
            self.reached, self.reached_phase = self._place, self.phase

    def _enter(self, layer: Any) -> Place:
        before = self._place
        if self.phase == "update" and not self._updating:
            self.phase = "forward"
        known = self._paths.get(id(layer))
        path = known[0] if known is not None else layer_path(layer, self.model)
        if known is None and getattr(layer, "built", True):
            # The layer is kept with it, so that its identity is not given to another.
            self._paths[id(layer)] = (path, layer)
        number = self._calls.get(path, 0)
        self._calls[path] = number + 1
        line = users_line(2, before.line)
        self._place = Place(path, type(layer).__name__, number, self._clock.now, line)
        self._progress(self.phase, path)
        return before

    def _see_outputs(self, outputs: Any) -> Any:
        """Record a layer's outputs and return them with a tap on what flows back."""
        import tensorflow as tf

        place = self._place
        order, self._order = self._order, self._order + 1
        if place.call >= _CALLS:
            return outputs
        flat = tf.nest.flatten(outputs)
        # A sparse or ragged output is seen by its values.
        seen = [_values(tensor) for tensor in flat]
        tapped: list[Any] = []
        for position, tensor in enumerate(seen):
            if not _is_floating(tensor):
                tapped.append(tensor)
                continue
            self.stream.see_output(tensor)
            self._record(
                "activations",
                tensor,
                step=self.step,
                order=order,
                layer=place.layer,
                layer_class=place.layer_class,
                call=place.call,
                time=place.time,
                role="output" if position == 0 else f"output/{position}",
            )
            # A recurrent cell hands its output on as its state too: the same tensor, the same tap.
            if position == 0:
                tapped.append(self._tap(tensor, place))
            else:
                tapped.append(tapped[0] if tensor is seen[0] else tensor)
        if all(new is old for new, old in zip(tapped, seen, strict=True)):
            return outputs
        return tf.nest.pack_sequence_as(
            outputs, [_with_values(old, new) for old, new in zip(flat, tapped, strict=True)]
        )

    def _tap(self, tensor: Any, place: Place) -> Any:
        """Return the same tensor with an eye on the gradient that comes back to it.

        A tap stands between a tensor and what reads it. Were some readers before it and some
        behind, their gradients would be summed up in another order than without the watch. So a
        tensor that came through a tap gets no second one, and one that its layer, or the derivative
        of its own op, reads gets none at all: its gradient is seen where that op is differentiated.
        """
        key = seams.identity(tensor)
        if key in self._taps:
            self._taps[key].append(place)
            return tensor
        places = [place]
        if self.stream.is_read(key):
            self.stream.await_gradient(key, lambda gradient: self._see_gradient(gradient, places))
            seen = tensor
        else:
            seen = self._passed_through(tensor, places)
        self._taps[seams.identity(seen)] = places
        logits = seams.keras_logits(tensor)
        if seams.has_values(logits):
            # A cross-entropy reads the logits in place of the probabilities.
            seams.set_keras_logits(seen, self._passed_through(logits, places))
        return seen

    def _passed_through(self, tensor: Any, places: list[Place]) -> Any:
        import tensorflow as tf

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def pass_on(value: Any) -> tuple[Any, Callable[[Any], Any]]:
            def back(gradient: Any) -> Any:
                self._see_gradient(gradient, places)
                return gradient

            return tf.identity(value), back

        mask = seams.keras_mask(tensor)
        with self.stream.ours():
            seen = pass_on(tensor)
        self.stream.passed_on(tensor, seen)
        if mask is not None:
            seams.set_keras_mask(seen, mask)
        return seen

    def _see_gradient(self, gradient: Any, places: list[Place]) -> None:
        values = _values(gradient)
        if not seams.has_values(values):
            return
        for place in reversed(places):
            order, self._back_order = self._back_order, self._back_order + 1
            self._progress("backward", place.layer)
            self._record(
                "gradients",
                values,
                step=self.step,
                order=order,
                layer=place.layer,
                layer_class=place.layer_class,
                call=place.call,
                time=place.time,
                variable="",
            )

    # ------------------------------------------------------------------ losses

    def _compute_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self

        def compute(model: Any, *args: Any, **kwargs: Any) -> Any:
            with watch._loss_phase():
                loss = original(model, *args, **kwargs)
            if model is watch.model:
                watch.loss = _scalar(loss)
            return loss

        return compute

    def _loss_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self

        def call(loss: Any, *args: Any, **kwargs: Any) -> Any:
            watch._loss_names.append(watch._term(loss))
            try:
                with watch._loss_phase():
                    value = original(loss, *args, **kwargs)
            finally:
                name = watch._loss_names.pop()
            watch._add_loss(name, value)
            return value

        return call

    def _term(self, loss: Any) -> str:
        """Return what a loss is called: with its output in front where there are several."""
        own = str(getattr(loss, "name", type(loss).__name__))
        compiled = seams.compiled_losses(self.model)
        outputs = [output for output, other in compiled if other is loss]
        if len(compiled) < 2 or not outputs:
            return clean(own)
        # One loss object may judge several outputs, in their order.
        number = self._loss_calls.get(id(loss), 0)
        self._loss_calls[id(loss)] = number + 1
        return clean(f"{outputs[number % len(outputs)]}/{own}")

    def see_logs(self, logs: Any) -> None:
        """Take in what a step of the user's own reports: the terms of its loss, by its names."""
        import keras

        if type(self.model).train_step is keras.Model.train_step or not isinstance(logs, dict):
            return
        for name, value in logs.items():
            number = np.asarray(value)
            if name != "loss" and number.dtype.kind == "f" and number.size == 1:
                self._add_loss(f"log/{clean(str(name))}", value)

    def _reduce_values(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self

        def reduce(values: Any, *args: Any, **kwargs: Any) -> Any:
            watch._see_sample_losses(values)
            return original(values, *args, **kwargs)

        return reduce

    def _additional_loss(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self
        seen: list[Any] = []

        def aggregate(model: Any, loss: Any) -> Any:
            value = original(model, loss)
            names = watch._additional_names(model)
            # A step of the user's own may compute its loss more than once.
            name = names[len(seen) % len(names)] if names else f"additional/{len(seen)}"
            seen.append(None)
            watch._add_loss(name, value)
            return value

        return aggregate

    def _additional_names(self, model: Any) -> list[str]:
        names: list[str] = []
        for layer in model._flatten_layers():  # noqa: SLF001 - Keras offers no public walk in this order
            own = len(getattr(layer, "_losses", ()))
            names += [f"add_loss/{layer_path(layer, model)}"] * own
        names += [
            f"regularizer/{clean(variable.path)}"
            for variable in model.trainable_weights
            if variable.regularizer is not None
        ]
        return names

    @contextmanager
    def _loss_phase(self) -> Iterator[None]:
        before = self.phase
        if before == "forward":
            self.phase = "loss"
        try:
            yield
        except BaseException:
            self._note_where()
            raise
        finally:
            self.phase = before

    def _add_loss(self, name: str, value: Any) -> None:
        number = _scalar(value)
        if number is not None:
            self.terms.append((name, seams.identity(value)))
            order = sum(1 for row in self.builder.rows("losses") if row["step"] == self.step)
            self.builder.add("losses", step=self.step, order=order, name=name, value=number)

    def _see_sample_losses(self, values: Any) -> None:
        if not _is_floating(values):
            return
        array = np.asarray(seams.view(values), dtype=np.float64)
        if not array.shape or not array.size or len(array) != self._samples:
            return
        if self._samples > _SAMPLE_LOSSES:
            return
        name = self._loss_names[-1] if self._loss_names else "loss"
        with np.errstate(all="ignore"):
            means = array.reshape(len(array), -1).mean(axis=1)
        for sample, value in enumerate(means):
            self.builder.add(
                "sample_losses", step=self.step, name=name, sample=sample, value=float(value)
            )

    # ------------------------------------------------------------------ backward and update

    def _tape_gradient(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self

        def gradient(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
            before, watch.phase = watch.phase, "backward"
            place = watch._at_line()
            try:
                found = original(tape, target, sources, *args, **kwargs)
            except BaseException:
                watch._note_where()
                raise
            finally:
                watch.phase, watch._place = before, place
            if watch._see_gradients(target, sources, found) and before == "forward":
                # What is done to gradients by hand belongs to the update, up to the next layer.
                watch.phase = "update"
            return found

        known_from(gradient)
        return gradient

    def _see_gradients(self, target: Any, sources: Any, found: Any) -> bool:
        """Record the gradients of the model's weights; say whether there are any."""
        import tensorflow as tf

        trainable = {id(variable): variable for variable in self.model.trainable_variables}
        flat_sources, flat_found = tf.nest.flatten(sources), _flat(found)
        if not any(id(source) in trainable for source in flat_sources):
            return False
        targets = [tensor for tensor in _flat(target) if tensor is not None]
        self.targets += [number for tensor in targets if (number := _scalar(tensor)) is not None]
        self.stream.reach(targets, "loss")
        gradients = [
            (trainable[id(source)], tensor)
            for source, tensor in zip(flat_sources, flat_found, strict=False)
            if id(source) in trainable and seams.has_values(_values(tensor))
        ]
        self.stream.reach([_values(tensor) for _, tensor in gradients], "gradient")
        owners = self._owners()
        for variable, tensor in gradients:
            order, self._back_order = self._back_order, self._back_order + 1
            layer, kind = owners.get(id(variable), ("", ""))
            measured = self._record(
                "gradients",
                _values(tensor),
                step=self.step,
                order=order,
                layer=layer,
                layer_class=kind,
                call=-1,
                variable=clean(variable.path),
            )
            if measured is not None:
                self._gradients[id(variable)] = measured
        return True

    def _owners(self) -> dict[int, tuple[str, str]]:
        from divergence_doctor.replay.state import model_variables

        return {
            id(held.variable): (held.layer, held.layer_class)
            for held in model_variables(self.model)
        }

    def _update(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self

        def apply(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            outer, watch._updating, watch.phase = watch._updating, True, "update"
            watch._progress("update", "")
            place = watch._at_line()
            try:
                return original(optimizer, *args, **kwargs)
            except BaseException:
                watch._note_where()
                raise
            finally:
                watch._updating, watch._place = outer, place
                watch.phase = "update" if outer else "forward"

        known_from(apply)
        return apply

    def _clip(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Tell clipping from the rest of the update: Keras' own, and TensorFlow's by hand."""
        watch = self

        def clip(*args: Any, **kwargs: Any) -> Any:
            if watch.phase != "update":
                return original(*args, **kwargs)
            watch.phase = "clipping"
            try:
                return original(*args, **kwargs)
            finally:
                watch.phase = "update"

        return clip

    def _own_gradient(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Give the ops of a gradient that the user wrote the layer that it was written for."""
        watch = self

        def record(
            op_type: Any,
            output_tensors: Any,
            input_tensors: Any,
            backward_function: Any,
            *rest: Any,
            **named: Any,
        ) -> Any:
            place = watch._place

            def placed(*gradients: Any) -> Any:
                before, watch._place = watch._place, place
                try:
                    return backward_function(*gradients)
                finally:
                    watch._place = before

            back = placed if place.layer else backward_function
            return original(op_type, output_tensors, input_tensors, back, *rest, **named)

        return record


def _flat(value: Any) -> list[Any]:
    """Return the tensors of a structure; an IndexedSlices is one of them."""
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _flat(item)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _flat(item)]
    return [value]


def _values(tensor: Any) -> Any:
    """Return the values of a sparse or ragged tensor (of an IndexedSlices, its touched rows)."""
    import tensorflow as tf

    if isinstance(tensor, tf.RaggedTensor):
        return tensor.flat_values
    if isinstance(tensor, tf.SparseTensor | tf.IndexedSlices):
        return tensor.values
    return tensor


def _with_values(tensor: Any, values: Any) -> Any:
    """Return a tensor with other values: a sparse or ragged one keeps its places."""
    import tensorflow as tf

    if _values(tensor) is values:
        return tensor
    if isinstance(tensor, tf.RaggedTensor):
        return tensor.with_flat_values(values)
    if isinstance(tensor, tf.SparseTensor):
        return tf.SparseTensor(tensor.indices, values, tensor.dense_shape)
    if isinstance(tensor, tf.IndexedSlices):
        return tf.IndexedSlices(values, tensor.indices, tensor.dense_shape)
    return values


def _is_floating(tensor: Any) -> bool:
    dtype = getattr(tensor, "dtype", None)
    return seams.has_values(tensor) and bool(getattr(dtype, "is_floating", False))


def _scalar(tensor: Any) -> float | None:
    """Return the sum of a loss tensor as a float, or None for what is no number."""
    if not _is_floating(tensor):
        return None
    values = np.asarray(seams.view(tensor), dtype=np.float64)
    with np.errstate(all="ignore"):
        return float(values.sum())


def _is_finite(row: dict[str, Any]) -> bool:
    return bool(row["nan"] + row["posinf"] + row["neginf"] == 0)
