"""How does a model that makes its weights when it is first called come by them? By one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from divergence_doctor.batches import Batch


def call_once(model: Any, batch: Batch) -> None:
    """Call a model on the inputs of a batch, as it was trained on; what it puts out is dropped.

    Args:
        model: a ``keras.Model`` without weights.
        batch: arrays by name; those named ``x`` are the inputs.
    """
    import keras

    names = [name for name in batch.arrays if batch.role(name) == "x"]
    arrays = [keras.ops.convert_to_tensor(batch.arrays[name][:1]) for name in names]
    if names == ["x"]:
        model(arrays[0])
    elif all("/" in name for name in names):
        model({name.partition("/")[2]: array for name, array in zip(names, arrays, strict=True)})
    elif names:
        model(arrays)
