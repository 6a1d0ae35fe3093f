"""Source and target read one embedding, whose gradients add up: steps of 20 times them overshoot.

From OpenNMT/OpenNMT-tf#220.
"""

import keras
import numpy as np
from keras import layers, ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "high-learning-rate",
    "stage": "update",
    "layer": None,
    "op": "Square",
    "samples": [],
}


@keras.saving.register_keras_serializable("o19")
class DotRead(layers.Layer):
    """Compares each source token with the mean of the target."""

    def call(self, inputs):
        """Return one score for each source token."""
        source, target = inputs
        return ops.einsum("bld,bd->bl", source, ops.mean(target, axis=1))


def model():
    """Return a scorer of sentence pairs."""
    source = keras.Input((5,), dtype="int32", name="source")
    target = keras.Input((5,), dtype="int32", name="target")
    shared = layers.Embedding(10, 8, embeddings_initializer="normal", name="shared_embedding")
    scores = DotRead(name="read")([shared(source), shared(target)])
    quality = layers.Dense(1, name="quality")(scores)
    built = keras.Model([source, target], quality)
    built.compile(keras.optimizers.SGD(learning_rate=20.0), "mse")
    return built


def batch():
    """Return sixteen pairs with their quality."""
    rng = np.random.default_rng(0)
    return {
        "source": rng.integers(0, 10, (16, 5)).astype("int32"),
        "target": rng.integers(0, 10, (16, 5)).astype("int32"),
        "y": rng.normal(size=(16, 1)).astype("float32"),
    }
