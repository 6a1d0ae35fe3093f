"""Can this model's step be replayed at all? What cannot is refused by name, before it runs.

The replay runs ``train_step`` eagerly, on one device, on TensorFlow. A model whose step means
something else there would be judged by numbers that it never had.
"""

from __future__ import annotations

from typing import Any

from divergence_doctor._clean import clean
from divergence_doctor.errors import UsageError


def check_supported(model: Any) -> None:
    """Return if the model's step can be replayed.

    Args:
        model: a ``keras.Model`` as it was opened.

    Raises:
        UsageError: it runs on another backend, in a distribution strategy, by a train function of
            its own, in float8, or has no weights yet.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "other-backend",
            f"Keras runs on {clean(keras.backend.backend())}",
            why="the step is replayed op by op on TensorFlow; other backends are not supported",
            fix="unset KERAS_BACKEND, or set KERAS_BACKEND=tensorflow",
        )
    strategy = getattr(model, "_distribute_strategy", None) or keras.distribution.distribution()
    if strategy is not None:
        raise UsageError(
            "distributed-model",
            f"the model was made in a {clean(type(strategy).__name__)}",
            why="a step spread over devices is not supported: each sees a part of the batch",
            fix="build the model outside of the strategy's scope; its weights load all the same",
        )
    if type(model).make_train_function is not keras.Model.make_train_function:
        raise UsageError(
            "own-train-function",
            f"{clean(type(model).__name__)} overrides make_train_function",
            why="what it does around train_step cannot be watched, and is not supported",
            fix="move it into train_step, or replay with a subclass that does without it",
        )
    for layer in model._flatten_layers():  # noqa: SLF001 - Keras has no public walk through nested layers
        if getattr(layer, "quantization_mode", None) == "float8":
            raise UsageError(
                "float8",
                f"layer {clean(str(layer.name))!r} is quantized to float8",
                why="Keras trains float8 in a compiled step only; a step that is run op by op is "
                "not supported",
                fix="replay the model before quantize('float8')",
            )
    if not model.built or (not model.variables and _has_layers(model)):
        raise UsageError(
            "not-built",
            f"the model {clean(str(model.name))!r} has no weights yet",
            why="a subclassed model makes them when it is first called",
            fix="call it once in the factory: model(example_batch) or model.build(input_shape)",
        )


def _has_layers(model: Any) -> bool:
    return any(getattr(layer, "_layers", ()) or not layer.built for layer in model.layers)
