"""How is a model made to compute in a wider dtype for a while, and no op of it in a narrower?

Three things are changed together and put back: the dtype policy of every layer, the dtype in which
every variable is held (weights, slots, metrics), and every cast to a narrower dtype that is left
then, in user code or in the graph of a functional model: it hands on its input in the wider one.
What the code makes in the narrow dtype from nothing, `tf.zeros(n, tf.float16)`, cannot be changed:
the step then raises where two dtypes meet.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor.checkpoints import optimizers_of
from divergence_doctor.errors import UsageError
from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.state import layers_of, untracked

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: The floating dtypes narrower than those that a step can be computed in.
_NARROWER: Final = {
    "float32": frozenset({"float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"}),
    "float64": frozenset({"float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float32"}),
}


@contextmanager
def computed_in(model: Any, dtype: str) -> Iterator[None]:
    """Compute the steps inside in ``dtype``, float32 or float64, where they were narrower.

    What the steps write to the model's variables meanwhile is gone afterwards.

    Args:
        model: a built and compiled Keras model.
        dtype: the dtype.

    Raises:
        UsageError: a layer is quantized; it has no wider dtype.
    """
    import keras

    narrower = _NARROWER[dtype]
    policy = keras.DTypePolicy(dtype)
    with ExitStack() as stack:
        for layer in layers_of(model):
            own = seams.policy_of(layer)
            if own.quantization_mode is not None:
                raise UsageError(
                    "quantized-layer",
                    f"layer {layer.name!r} cannot be computed in {dtype}",
                    why=f"it is quantized ({own.quantization_mode})",
                    fix="replay the model as it was before it was quantized",
                )
            if {own.compute_dtype, own.variable_dtype} & narrower:
                stack.enter_context(seams.other_policy(layer, policy))
        for variable in _variables(model):
            if seams.held_dtype(variable) in narrower:
                stack.enter_context(seams.retyped(variable, dtype))
        for _, loss in seams.compiled_losses(model):
            if str(getattr(loss, "dtype", "")) in narrower:
                stack.enter_context(seams.loss_in(loss, dtype))
        stack.enter_context(_defaults(dtype, narrower))
        stack.enter_context(seams.op_callback(_Casts(dtype, narrower).on_op))
        yield


def narrow(dtypes: Sequence[str], dtype: str = "float32") -> bool:
    """Say whether one of these dtypes is narrower than ``dtype``."""
    return not _NARROWER[dtype].isdisjoint(dtypes)


@contextmanager
def _defaults(dtype: str, narrower: frozenset[str]) -> Iterator[None]:
    """Set Keras' own defaults, by which what is made during a step is made."""
    import keras

    policy, floating = keras.config.dtype_policy(), keras.config.floatx()
    try:
        if {policy.compute_dtype, policy.variable_dtype} & narrower:
            keras.config.set_dtype_policy(dtype)
        if floating in narrower:
            keras.config.set_floatx(dtype)
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_floatx(floating)


def _variables(model: Any) -> list[Any]:
    """Return every Keras variable that a step may read or write, each once."""
    import keras

    found = [
        *model.variables,
        *(variable for layer in layers_of(model) for variable in untracked(layer)),
        *(variable for optimizer in optimizers_of(model) for variable in optimizer.variables),
        *(variable for metric in model.metrics for variable in metric.variables),
    ]
    unique = {id(variable): variable for variable in found}
    return [variable for variable in unique.values() if isinstance(variable, keras.Variable)]


class _Casts:
    """Has every cast to a narrower dtype hand on its input in the wider one (an op callback)."""

    def __init__(self, dtype: str, narrower: frozenset[str]) -> None:
        self._dtype, self._narrower = dtype, narrower
        self._ours = False

    def on_op(
        self,
        op_type: str | bytes,
        inputs: Sequence[Any],
        attrs: Any,  # noqa: ARG002 - TensorFlow's signature
        outputs: list[Any],
        op_name: str | None = None,  # noqa: ARG002
        graph: Any = None,
    ) -> None:
        """Take in one op; one that is traced has no values and is left as it is."""
        if self._ours or graph is not None or op_type not in {"Cast", b"Cast"}:
            return
        import tensorflow as tf

        if outputs[0].dtype.name not in self._narrower:
            return
        # On the tape, so that the gradient finds its way; a new tensor, so that it is this op's.
        self._ours = True
        try:
            same = inputs[0].dtype.name == self._dtype
            outputs[0] = tf.identity(inputs[0]) if same else tf.cast(inputs[0], self._dtype)
        finally:
            self._ours = False
