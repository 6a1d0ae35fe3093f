"""How does what a model makes when it is first used come to be there? By using it once."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from divergence_doctor.batches import Batch


def call_once(model: Any, batch: Batch) -> None:
    """Call a model on the first sample of a batch; what it puts out is dropped.

    Args:
        model: a ``keras.Model`` without weights.
        batch: arrays by name; those named ``x`` are the inputs.
    """
    inputs = _nested(batch, "x", samples=1)
    if inputs is not None:
        model(inputs)


def step_once(model: Any, batch: Batch) -> None:
    """Take one training step, eagerly; whatever it raises, the variables made until then are there.

    Args:
        model: a compiled ``keras.Model``.
        batch: arrays by name.
    """
    import keras
    import tensorflow as tf

    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)  # noqa: FBT003 - TensorFlow's signature
    data = (_nested(batch, role) for role in ("x", "y", "sample_weight"))
    try:
        # A step that fails is what the bundle is about; it is told when it is replayed.
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.train_step(keras.utils.pack_x_y_sample_weight(*data))
    finally:
        tf.config.run_functions_eagerly(eagerly)
        model.reset_metrics()


def _nested(batch: Batch, role: str, samples: int | None = None) -> Any:
    """Return the arrays of a role as tensors: one, a dict or a list, as their names say."""
    import keras

    names = [name for name in batch.arrays if batch.role(name) == role]
    arrays = [keras.ops.convert_to_tensor(batch.arrays[name][:samples]) for name in names]
    if len(names) == 1 and "/" not in names[0]:
        return arrays[0]
    if names and all("/" in name for name in names):
        return {name.partition("/")[2]: one for name, one in zip(names, arrays, strict=True)}
    return arrays or None
