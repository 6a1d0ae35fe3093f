"""Which private doors of Keras do the checkpoint formats go through? All of them are here."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def shared_objects() -> Iterator[None]:
    """Let what a config names twice by one number become one object, as ``load_model`` does."""
    from keras.src.saving.serialization_lib import ObjectSharingScope

    with ObjectSharingScope():
        yield


def op_determinism() -> bool:
    """Say whether TensorFlow takes kernels that give the same bits every time."""
    from tensorflow.python.framework import config

    return bool(config.is_op_determinism_enabled())


def layer_states(model: Any) -> list[Any]:
    """Return variables that a layer keeps past Keras' own list: the states of a stateful RNN."""
    import keras

    # Keras has no public walk through nested layers.
    held = [getattr(layer, "states", None) for layer in model._flatten_layers()]  # noqa: SLF001
    return [state for state in keras.tree.flatten(held) if isinstance(state, keras.Variable)]
