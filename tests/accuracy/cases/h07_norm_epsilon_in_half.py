"""A hand-made layer norm adds 1e-8 to the variance, which is 0 in float16: 0 / 0 on padded rows.

From google/gemma_pytorch#24.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "low-precision-underflow",
    "stage": "forward",
    "layer": "norm",
    "op": "RealDiv",
    "samples": [2, 5],
}


@keras.saving.register_keras_serializable("h07")
class PlainNorm(keras.layers.Layer):
    """Zero mean and unit variance over the features, with a learnt gain."""

    def build(self, shape):
        """Make the gain."""
        self.gain = self.add_weight(shape=(shape[-1],), initializer="ones", name="gain")

    def call(self, inputs):
        """Return the normalised features."""
        centred = inputs - ops.mean(inputs, axis=-1, keepdims=True)
        variance = ops.mean(centred * centred, axis=-1, keepdims=True)
        return self.gain * centred / ops.sqrt(variance + 1e-8)


def model():
    """Return a tagger in mixed precision: embedding, norm, two dense layers."""
    keras.config.set_dtype_policy("mixed_float16")
    tokens = keras.Input((6,), dtype="int32", name="tokens")
    vectors = keras.layers.Embedding(20, 8, name="embedding")(tokens)
    normed = PlainNorm(name="norm")(vectors)
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")(normed)
    tags = keras.layers.Dense(4, activation="softmax", dtype="float32", name="tags")(hidden)
    built = keras.Model(tokens, tags)
    built.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    table = np.array(built.get_layer("embedding").embeddings) * 8.0
    table[0] = 1.0
    built.get_layer("embedding").set_weights([table])
    return built


def batch():
    """Return eight sentences; two end in padding, whose vector is constant."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 20, (8, 6)).astype("int32")
    tokens[2, 4:] = 0
    tokens[5, 5:] = 0
    return {"x": tokens, "y": rng.integers(0, 4, (8, 6)).astype("int32")}
