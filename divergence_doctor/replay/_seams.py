"""Which private doors of TensorFlow and Keras does the replay go through? All of them are here.

Each is a context manager that puts back what it found, also after an exception, and each has a test
of its own (``tests/replay/test_seams.py``) that fails by name when TensorFlow or Keras moves it.
"""

from __future__ import annotations

import functools
import itertools
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

#: Two functions of one name would be one.
_numbers = itertools.count()


@contextmanager
def op_callback(callback: Callable[..., None]) -> Iterator[None]:
    """Call ``callback(op_type, inputs, attrs, outputs, op_name=None, graph=None)`` per eager op.

    Assigning into the list ``outputs`` replaces the op's result for everything downstream. The tape
    has recorded the op by then: what is put there must be made from the old result, on the tape, or
    the gradient ends there. Ops that the callback itself runs call it again: it must let them pass.
    """
    from tensorflow.python.framework import op_callbacks

    op_callbacks.add_op_callback(callback)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(callback)


@contextmanager
def gradient_function(wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Route the gradient of every op of this thread through ``wrap(original)``.

    It gets ``(op_name, attrs, num_inputs, inputs, outputs, out_grads, skip, name_scope)``;
    any of ``inputs``, ``outputs`` and their entries may be None.
    """
    from tensorflow.python import pywrap_tfe
    from tensorflow.python.eager import backprop

    original = backprop._gradient_function  # noqa: SLF001 - the seam
    pywrap_tfe.TFE_Py_RegisterGradientFunction(_on_this_thread(wrap(original), original))
    try:
        yield
    finally:
        pywrap_tfe.TFE_Py_RegisterGradientFunction(original)


def _on_this_thread(changed: Callable[..., Any], original: Callable[..., Any]) -> Any:
    """Return a function that is ``changed`` here and ``original`` on every other thread.

    What is replaced belongs to the whole process: a data loader's thread must not enter the watch.
    """
    if changed is original or not callable(original):
        return changed
    here = threading.get_ident()

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (changed if threading.get_ident() == here else original)(*args, **kwargs)

    return call


@contextmanager
def patched(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """Replace ``owner.name`` by ``make(original)`` for a while, on this thread alone."""
    original = owner.__dict__[name] if name in vars(owner) else getattr(owner, name)
    inherited = name not in vars(owner)
    setattr(owner, name, _on_this_thread(make(original), original))
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, original)


@contextmanager
def own_attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give one object an attribute of its own for a while, past what Keras tracks."""
    before = vars(owner).get(name)
    vars(owner)[name] = value
    try:
        yield
    finally:
        if before is None:
            del vars(owner)[name]
        else:
            vars(owner)[name] = before


def layer_class() -> type:
    """Return the class whose ``__call__`` every layer, nested model and cell passes through."""
    from keras.src.layers.layer import Layer

    return Layer  # type: ignore[no-any-return]


def operation_class() -> type:
    """Return the class whose ``__call__`` every node of a functional graph passes through."""
    from keras.src.ops.operation import Operation

    return Operation  # type: ignore[no-any-return]


def trainer_class() -> type:
    """Return the class that holds ``_compute_loss`` and ``_aggregate_additional_loss``."""
    from keras.src.trainers.trainer import Trainer

    return Trainer  # type: ignore[no-any-return]


def optimizer_class() -> type:
    """Return the class that every Keras optimizer derives from."""
    from keras.src.optimizers.base_optimizer import BaseOptimizer

    return BaseOptimizer  # type: ignore[no-any-return]


def tape_class() -> type:
    """Return the gradient tape's class (public, kept beside its kin)."""
    import tensorflow as tf

    return tf.GradientTape  # type: ignore[no-any-return]


def clipping_functions() -> tuple[tuple[Any, str], ...]:
    """Return TensorFlow's (public) functions that clip gradients, as (module, name)."""
    import tensorflow as tf

    names = ("clip_by_global_norm", "clip_by_norm", "clip_by_value")
    return (*((tf, name) for name in names), (tf.linalg, "global_norm"))


def record_module() -> Any:
    """Return the module whose ``record_operation`` puts a ``tf.custom_gradient`` on the tape.

    It is called with (name, outputs, inputs, backward function).
    """
    from tensorflow.python.eager import record

    return record


def loss_module() -> Any:
    """Return the module whose ``reduce_weighted_values`` every Keras loss reduces through."""
    from keras.src.losses import loss

    return loss


@contextmanager
def unrecorded() -> Iterator[None]:
    """Keep what runs inside off every gradient tape."""
    from tensorflow.python.eager import record

    with record.stop_recording():
        yield


def identity(tensor: Any) -> int:
    """Return the number that tells one eager tensor from every other, for as long as it lives."""
    return tensor._id  # type: ignore[no-any-return]  # noqa: SLF001 - the seam


def identities(tensors: Any) -> tuple[int, ...]:
    """Return the identity of each of some eager tensors."""
    return tuple([tensor._id for tensor in tensors])  # noqa: SLF001 - the seam


def dtype_number(tensor: Any) -> int:
    """Return the number of an eager tensor's dtype (``DataType`` of TensorFlow's protocol)."""
    return tensor._datatype_enum()  # type: ignore[no-any-return]  # noqa: SLF001 - the seam


def elements(tensor: Any) -> int:
    """Return how many elements an eager tensor has."""
    return tensor._num_elements()  # type: ignore[no-any-return]  # noqa: SLF001 - the seam


def has_values(tensor: Any) -> bool:
    """Say whether this is an eager tensor: a graph's symbolic one has an identity and no values."""
    return hasattr(tensor, "_numpy")


def view(tensor: Any) -> NDArray[Any]:
    """Return an eager tensor's values without a copy where it lies in host memory.

    The array must not be written to, and not be kept longer than the tensor.
    """
    return tensor._numpy()  # type: ignore[no-any-return]  # noqa: SLF001 - the seam


def execute_op(
    op_type: str, inputs: Sequence[Any], attrs: Mapping[str, Any], outputs: int
) -> list[NDArray[Any]] | None:
    """Run an op that moves elements about on 64-bit integers, off the tape; None where it cannot.

    Args:
        op_type: the TensorFlow op.
        inputs: its inputs, those that hold elements as int64.
        attrs: its attributes as an op callback gave them; the element type is replaced.
        outputs: how many outputs it has.
    """
    import tensorflow as tf
    from tensorflow.python.eager import context, execute

    kind = tf.int64.as_datatype_enum
    flat: list[Any] = []
    for name, value in attrs.items():
        if value is not None:  # an attribute left at its default
            flat += [name, kind if name in {"T", "Tparams"} else value]
    try:
        tensors = [tf.convert_to_tensor(value) for value in inputs]
        with unrecorded():
            ran = execute.execute(
                op_type.encode(), outputs, tensors, tuple(flat), context.context()
            )
    except (tf.errors.OpError, TypeError, ValueError):
        return None
    return [view(tensor) for tensor in (ran if isinstance(ran, list | tuple) else [ran])]


def values_of(variable: Any) -> NDArray[Any]:
    """Return what a variable of Keras or TensorFlow holds, uncopied where it lies in host memory.

    The array must not be written to. It stays as it is: what is assigned later goes elsewhere.
    """
    import tensorflow as tf

    held = getattr(variable, "_value", variable)
    return view(tf.raw_ops.ReadVariableOp(resource=held.handle, dtype=held.dtype))


def handle_of(variable: Any) -> Any:
    """Return the resource handle of a Keras or TensorFlow variable."""
    value = getattr(variable, "_value", variable)
    return getattr(value, "handle", None)


def keras_mask(tensor: Any) -> Any:
    """Return the mask that Keras keeps on a tensor, or None."""
    return getattr(tensor, "_keras_mask", None)


def set_keras_mask(tensor: Any, mask: Any) -> None:
    """Put a mask on a tensor the way Keras does."""
    from keras.src import backend

    backend.set_keras_mask(tensor, mask)


def compiled_losses(model: Any) -> list[tuple[str, Any]]:
    """Return (name of the output, loss object) of every compiled loss, once the first step ran."""
    compiled = getattr(model, "_compile_loss", None)
    return [
        (str(entry.name), entry.loss) for entry in getattr(compiled, "_flat_losses", None) or ()
    ]


def keras_logits(tensor: Any) -> Any:
    """Return the logits that Keras keeps on a softmax's or sigmoid's output, or None.

    Its cross-entropies read them in place of the probabilities.
    """
    return getattr(tensor, "_keras_logits", None)


def set_keras_logits(tensor: Any, logits: Any) -> None:
    """Put logits on a tensor the way Keras does."""
    tensor._keras_logits = logits  # noqa: SLF001 - the seam


def rnn_module() -> Any:
    """Return the module through which every recurrent layer calls ``rnn``, the loop over time."""
    from keras.src import backend

    return backend


def time_distributed_class() -> type:
    """Return the wrapper that calls a layer's ``call`` once per time step."""
    import keras

    return keras.layers.TimeDistributed  # type: ignore[no-any-return]


def before_autograph(file: str, line: int) -> tuple[str, int] | None:
    """Return the line that a line of AutoGraph's generated code was made from, while it runs."""
    from tensorflow.python.util import tf_stack

    mappers = tf_stack._source_mapper_stacks.get(threading.get_ident())  # noqa: SLF001 - the seam
    found = mappers[-1].get_effective_source_map().get((file, line)) if mappers else None
    return None if found is None else (str(found[0]), int(found[1]))


def forget_global_seed_generator() -> None:
    """Make the next unseeded ``keras.random`` call start again from the global seed."""
    from keras.src.backend.common import global_state

    global_state.set_global_attribute("global_seed_generator", None)


def global_seed_state() -> Any:
    """Return the variable behind unseeded ``keras.random`` calls; None before the first of them."""
    from keras.src.backend.common import global_state

    generator = global_state.get_global_attribute("global_seed_generator")
    return None if generator is None else generator.state


def tensorflow_seed() -> tuple[int | None, Any]:
    """Return what ``tf.random.set_seed`` was given, and the state that eager ops' seeds come of."""
    from tensorflow.python.eager import context

    seed, drawn = context.global_seed(), getattr(context.context(), "_rng", None)
    return (None if seed is None else int(seed)), None if drawn is None else drawn.getstate()


def set_tensorflow_seed(seed: int, state: Any) -> None:
    """Put back what :func:`tensorflow_seed` returned."""
    import tensorflow as tf
    from tensorflow.python.eager import context

    tf.random.set_seed(seed)
    if state is not None:
        context.context()._rng.setstate(state)  # noqa: SLF001 - the seam


def make_global_seed_state() -> Any:
    """Return the variable behind unseeded ``keras.random`` calls, made where there was none."""
    from keras.src.random import seed_generator

    return seed_generator.global_seed_generator().state


def base_loss_class() -> type:
    """Return the class that every Keras loss object derives from."""
    from keras.src.losses.loss import Loss

    return Loss  # type: ignore[no-any-return]


def loss_scale_class() -> type:
    """Return the loss-scaling optimizer, which overrides ``apply``."""
    import keras

    return keras.optimizers.LossScaleOptimizer  # type: ignore[no-any-return]


@contextmanager
def scaled_rate(optimizer: Any, factor: float) -> Iterator[None]:
    """Multiply an optimizer's learning rate, constant or schedule, for a while.

    A constant rate is a variable of the optimizer: putting back its state puts it back too.
    """
    import keras

    schedule: Any = getattr(optimizer, "_learning_rate", None)
    if not isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
        optimizer.learning_rate = float(optimizer.learning_rate) * factor
        yield
        return

    class Scaled(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __call__(self, step: Any) -> Any:
            return schedule(step) * factor

    optimizer._learning_rate = Scaled()  # noqa: SLF001 - the public setter refuses to swap schedules
    try:
        yield
    finally:
        optimizer._learning_rate = schedule  # noqa: SLF001


@contextmanager
def bounded_rate(optimizer: Any, default: float) -> Iterator[None]:
    """Put a rate in place of an optimizer's where that is not finite or is negative, for a while.

    A constant rate is a variable of the optimizer: putting back its state puts it back too.
    """
    import keras

    held: Any = getattr(optimizer, "_learning_rate", None)
    if isinstance(held, keras.Variable):
        held.assign(default)
        yield
        return

    class Bounded(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
        def __call__(self, step: Any) -> Any:
            rate = keras.ops.cast(held(step), "float32")
            good = keras.ops.logical_and(keras.ops.isfinite(rate), rate >= 0)
            return keras.ops.where(good, rate, default)

    scheduled = isinstance(held, keras.optimizers.schedules.LearningRateSchedule)
    # The public setter refuses to swap schedules.
    optimizer._learning_rate = Bounded() if scheduled else default  # noqa: SLF001
    try:
        yield
    finally:
        optimizer._learning_rate = held  # noqa: SLF001


def graph_in_the_making() -> Any:
    """Return the graph that is being traced into, or None when ops run at once."""
    import tensorflow as tf

    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


def function_of(graph: Any, fetches: list[Any], *, jit: bool) -> Callable[[Any], tuple[Any, Any]]:
    """Return a traced graph as a function once more, without tracing it again.

    Args:
        graph: a ``FuncGraph`` of one argument.
        fetches: tensors of it to return beside what it returned.
        jit: have XLA compile it.

    Returns:
        A function that takes the argument and gives (what the graph returned, the fetched). It is
        optimised when it first runs, as the options are then.
    """
    import tensorflow as tf
    from tensorflow.python.eager.polymorphic_function import atomic_function

    number = next(_numbers)
    own = list(graph.outputs)
    graph.outputs[:] = [*own, *fetches]
    try:
        built = atomic_function.from_func_graph(
            f"doctor_{graph.name}_{number}", graph, {"_XlaMustCompile": True} if jit else {}
        )
    finally:
        graph.outputs[:] = own

    def run(data: Any) -> tuple[Any, Any]:
        parts = tf.nest.flatten(data, expand_composites=True)
        flat = [tensor for tensor in parts if tensor is not None]
        found = built.call_flat(*flat, *graph.external_captures, *graph.deferred_external_captures)
        logs = tf.nest.pack_sequence_as(
            graph.structured_outputs, found[: len(own)], expand_composites=True
        )
        return logs, found[len(own) :]

    return run


@contextmanager
def remapper(*, on: bool) -> Iterator[None]:
    """Leave grappler's remapper, which fuses MatMul, BiasAdd and Relu into one kernel, on or off.

    It holds for what is optimised for the first time inside.
    """
    import tensorflow as tf

    if on:
        yield
        return
    before = tf.config.optimizer.get_experimental_options().get("remapping")
    tf.config.optimizer.set_experimental_options({"remapping": False})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"remapping": before})


def onednn_on() -> bool:
    """Say whether this build of TensorFlow runs oneDNN's kernels, as the environment asks."""
    from tensorflow.python.util import _pywrap_util_port

    return bool(_pywrap_util_port.IsMklEnabled())


@contextmanager
def retyped(variable: Any, dtype: str) -> Iterator[None]:
    """Let a Keras variable hold its numbers in another dtype for a while.

    What is written to it meanwhile is gone afterwards: it is the variable it was.
    """
    import tensorflow as tf

    held, before = variable._value, variable._dtype  # noqa: SLF001 - the seam
    other = tf.Variable(tf.cast(held, dtype), trainable=held.trainable, name=str(variable.name))
    # An optimizer knows the variable it has slots for by this name.
    other._unique_id = held._unique_id  # noqa: SLF001
    variable._value, variable._dtype = other, dtype  # noqa: SLF001
    try:
        yield
    finally:
        variable._value, variable._dtype = held, before  # noqa: SLF001


def held_dtype(variable: Any) -> str:
    """Return the dtype in which a Keras variable holds its numbers, whatever it is read as."""
    return str(variable._dtype)  # noqa: SLF001 - the seam


def policy_of(layer: Any) -> Any:
    """Return the dtype policy of a layer; of one that maps layers to policies, its own."""
    from keras.src.dtype_policies.dtype_policy_map import DTypePolicyMap

    policy = layer._dtype_policy  # noqa: SLF001 - the seam
    return policy[layer.path] if isinstance(policy, DTypePolicyMap) and layer.path else policy


@contextmanager
def other_policy(layer: Any, policy: Any) -> Iterator[None]:
    """Let a layer compute by another dtype policy for a while."""
    with own_attribute(layer, "_dtype_policy", policy):
        yield


@contextmanager
def loss_in(loss: Any, dtype: str) -> Iterator[None]:
    """Let a Keras loss be computed in another dtype for a while."""
    import keras

    with (
        own_attribute(loss, "_dtype_policy", keras.DTypePolicy(dtype)),
        own_attribute(loss, "_dtype", dtype),
    ):
        yield


@contextmanager
def never_skipping(optimizer: Any) -> Iterator[None]:
    """Let a loss-scaling optimizer take every step, its gradients finite or not, for a while."""
    import tensorflow as tf

    with own_attribute(optimizer, "check_finite", lambda _gradients: tf.constant(True)):  # noqa: FBT003
        yield
