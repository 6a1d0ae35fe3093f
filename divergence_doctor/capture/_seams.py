"""Which private doors of TensorFlow and Keras does the flight recorder go through? All are here.

Each has a test of its own (``tests/capture/test_seams.py``) that fails by name when TensorFlow or
Keras moves it. Where a door is shut the recorder does without, and training goes on.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: The module whose class every model trains by under the TensorFlow backend, and that class.
TRAINER_MODULE: Final = "keras.src.backend.tensorflow.trainer"
TRAINER_CLASS: Final = "TensorFlowTrainer"
#: Frames between ``fit`` and a callback: the list of callbacks, and Keras' filter of tracebacks.
_FRAMES: Final = 12


# ------------------------------------------------------------------------- the train function


def train_function(model: Any) -> Callable[[Any], Any] | None:
    """Return the function that ``fit`` calls with an iterator, once per execution; None before."""
    return getattr(model, "train_function", None)


def set_train_function(model: Any, function: Callable[[Any], Any] | None) -> None:
    """Have ``fit`` and ``train_on_batch`` call another function."""
    model.train_function = function


def has_own_train_function(model: Any) -> bool:
    """Say whether the model's class makes its train function itself.

    Such a function may want the iterator of ``tf.data`` and no other.
    """
    trainer = getattr(sys.modules[TRAINER_MODULE], TRAINER_CLASS)
    own = getattr(type(model).make_train_function, "__wrapped__", type(model).make_train_function)
    keras_own = getattr(trainer.make_train_function, "__wrapped__", trainer.make_train_function)
    return own is not keras_own


def shadow_make_train_function(model: Any, function: Callable[..., Any]) -> None:
    """Give one model a ``make_train_function`` of its own, past what Keras tracks."""
    vars(model)["make_train_function"] = function


def unshadow_make_train_function(model: Any) -> None:
    """Take it away again."""
    vars(model).pop("make_train_function", None)


def one_step(function: Callable[[Any], Any]) -> Any:
    """Return the ``tf.function`` of one step inside a train function; None where it runs eagerly.

    Raises:
        LookupError: Keras does not keep it where it used to.
    """
    names = function.__code__.co_freevars
    cells = function.__closure__
    if "one_step_on_data" not in names or cells is None:
        raise LookupError("the train function of Keras encloses no one_step_on_data")
    cell = cells[names.index("one_step_on_data")]
    step = getattr(cell.cell_contents, "__wrapped__", None)
    if step is None:
        raise LookupError("one_step_on_data of Keras wraps no function")
    return step if hasattr(step, "get_concrete_function") else None


def trace_ahead(function: Callable[[Any], Any], iterator: Any) -> bool:
    """Trace the step for what the iterator may bring, as ``fit`` itself would; False if eager.

    The specification of the iterator leaves the size of the batch open where it varies. Traced from
    the batches themselves the step would be traced twice, and for a fixed size first: another graph
    than that of an unrecorded ``fit``. Afterwards every variable of the step is there.
    """
    import tensorflow as tf

    step = one_step(function)
    specification = getattr(iterator, "element_spec", None)
    if step is None or specification is None:
        return False
    step.get_concrete_function(
        tf.nest.map_structure(
            lambda part: None if isinstance(part, tf.OptionalSpec) else part, specification
        )
    )
    return True


def is_tensorflow_iterator(iterator: Any) -> bool:
    """Say whether an iterator is one that Keras reads inside of a graph."""
    import tensorflow as tf

    return isinstance(iterator, tf.data.Iterator | tf.distribute.DistributedIterator)


def fit_arguments() -> dict[str, Any]:
    """Return the arguments of the ``fit`` of Keras that is running; empty where none is."""
    frame = sys._getframe(1)  # noqa: SLF001 - the seam
    for _ in range(_FRAMES):
        if frame.f_back is None:
            break
        frame = frame.f_back
        if frame.f_code.co_name == "fit" and "epoch_iterator" in frame.f_locals:
            return dict(frame.f_locals)
    return {}


# ------------------------------------------------------------------------------------- values


def view(tensor: Any) -> NDArray[Any]:
    """Return an eager tensor's values without a copy where it lies in host memory.

    The array must not be written to, and not be kept longer than the tensor.
    """
    return tensor._numpy()  # type: ignore[no-any-return]  # noqa: SLF001 - the seam


def watch_assign(variable: Any, tell: Callable[..., None]) -> bool:
    """Have ``tell(in_graph=...)`` called before every ``assign`` of a Keras variable.

    Returns:
        Whether that could be done.
    """
    import tensorflow as tf

    assign = variable.assign

    def told(*args: Any, **kwargs: Any) -> Any:
        tell(in_graph=bool(tf.inside_function()))
        return assign(*args, **kwargs)

    try:
        variable.assign = told
    except AttributeError:
        return False
    return True


def unwatch_assign(variable: Any) -> None:
    """Give a variable its own ``assign`` back."""
    vars(variable).pop("assign", None)


def number(tensor: Any) -> float:
    """Return the value of an eager tensor of one element.

    Raises:
        AttributeError, TypeError, ValueError: it is something else.
    """
    return float(tensor._numpy())  # noqa: SLF001 - the seam


def reader(variable: Any) -> Callable[[], NDArray[Any]]:
    """Return a function that reads a variable of Keras, uncopied where it lies in host memory.

    The array must be let go of before the variable is assigned again: TensorFlow then writes in
    place. Of a variable that every replica has its own value of, those of this process are put
    together: to ask TensorFlow would make it wait for the other workers.
    """
    held = getattr(variable, "_value", variable)
    if not is_distributed(held) or _is_mirrored(held):
        return _plain_reader(held)
    readers = [_plain_reader(value) for value in held.values]
    how = str(getattr(held, "aggregation", "")).rpartition(".")[2]
    if how not in {"SUM", "MEAN"}:
        return readers[0]
    share = 1 if how == "SUM" else len(readers)

    def together() -> NDArray[Any]:
        values = [read() for read in readers]
        total: NDArray[Any] = np.asarray(sum(values[1:], values[0]))
        return total if share == 1 else np.asarray(total / share, total.dtype)

    return together


def _plain_reader(held: Any) -> Callable[[], NDArray[Any]]:
    import tensorflow as tf

    handle, dtype, read = held.handle, held.dtype, tf.raw_ops.ReadVariableOp
    return lambda: read(resource=handle, dtype=dtype)._numpy()  # noqa: SLF001


def is_on_host(variable: Any) -> bool:
    """Say whether a variable lies in host memory, so that reading it copies nothing."""
    held = getattr(variable, "_value", variable)
    return "GPU" not in str(getattr(held, "device", "")).upper()


def is_distributed(value: Any) -> bool:
    """Say whether a value is one of several replicas', of a ``tf.distribute`` strategy."""
    import tensorflow as tf

    return isinstance(value, tf.distribute.DistributedValues)


def _is_mirrored(value: Any) -> bool:
    from tensorflow.python.distribute import values

    return isinstance(value, values.MirroredVariable)


def replicas(value: Any) -> tuple[Any, ...]:
    """Return what each replica of this process got."""
    return tuple(value.values)


def is_missing(value: Any) -> bool:
    """Say whether a part of a batch is the ``tf.experimental.Optional`` that stands for None."""
    import tensorflow as tf

    return isinstance(value, tf.experimental.Optional)


# ------------------------------------------------------------------------------- random state


def global_seed_generator() -> Any:
    """Return the generator behind unseeded ``keras.random`` calls, or None where none was made."""
    from keras.src.backend.common import global_state

    return global_state.get_global_attribute("global_seed_generator")


def tensorflow_generator() -> Any:
    """Return TensorFlow's global generator, or None where none was made: asking makes one."""
    from tensorflow.python.ops import stateful_random_ops

    return stateful_random_ops.global_generator


def tensorflow_seed() -> int | None:
    """Return what ``tf.random.set_seed`` was given; None where it was not called."""
    from tensorflow.python.eager import context

    seed = context.global_seed()
    return None if seed is None else int(seed)


def tensorflow_op_seeds() -> Any:
    """Return the state behind the seeds of eager random ops, as ``random.getstate`` gives it."""
    from tensorflow.python.eager import context

    seeds = getattr(context.context(), "_rng", None)
    return None if seeds is None else seeds.getstate()


# ----------------------------------------------------------------------------------- the model


def weighs_loss_by_samples(model: Any, tracker: Any) -> bool:
    """Say whether the step and the tracker are Keras' own: it weighs by the size of the batch."""
    trainer = getattr(sys.modules[TRAINER_MODULE], TRAINER_CLASS)
    alone = getattr(model, "_distribute_strategy", None) is None
    own = getattr(model, "_loss_tracker", None) is tracker
    return own and alone and type(model).train_step is trainer.train_step


def samples(tensor: Any) -> int:
    """Return the length of the first axis of an eager tensor or an array; 0 where it has none."""
    shape = tensor._shape_tuple() if hasattr(tensor, "_shape_tuple") else np.shape(tensor)  # noqa: SLF001
    return int(shape[0]) if shape else 0


def own_variables(optimizer: Any) -> list[Any]:
    """Return the variables of an optimizer itself, without those of the one inside it."""
    return list(getattr(optimizer, "_variables", optimizer.variables))


def rate(optimizer: Any) -> tuple[Any, Any]:
    """Return what an optimizer's learning rate is read from: (variable, schedule), one of them.

    A schedule's variable is the count of steps that it is asked with. Both are None where the rate
    is a plain function.
    """
    import keras

    held = getattr(optimizer, "_learning_rate", None)
    if isinstance(held, keras.optimizers.schedules.LearningRateSchedule):
        # Where gradients are accumulated, `iterations` is a number and no variable.
        return getattr(optimizer, "_iterations", optimizer.iterations), held
    return (held, None) if isinstance(held, keras.Variable) else (None, None)
