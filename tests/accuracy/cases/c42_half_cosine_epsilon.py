"""Cosines are guarded by an epsilon of 1e-8, which float16 does not have: 0/0 for a padded image.

The family of google/gemma_pytorch#24 and keras-team/keras#11860.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "low-precision-underflow",
    "stage": "forward",
    "layer": "similarity",
    "op": "RealDiv",
    "samples": [2],
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c42")
class Similarity(keras.layers.Layer):
    """The cosines to a table of prototypes."""

    def build(self, shape):
        """Make four prototypes."""
        self.prototypes = self.add_weight(name="prototypes", shape=(shape[-1], 4))

    def call(self, vectors):
        """Return the cosines."""
        length = tf.sqrt(tf.reduce_sum(vectors * vectors, axis=-1, keepdims=True) + 1e-8)
        return tf.matmul(vectors / length, tf.nn.l2_normalize(self.prototypes, axis=0))


def model():
    """Return a prototype net under mixed precision; nothing before the cosine has a bias."""
    keras.config.set_dtype_policy("mixed_float16")
    built = keras.Sequential(
        [
            keras.Input((9,)),
            keras.layers.Dense(8, use_bias=False, name="embed"),
            Similarity(name="similarity"),
            keras.layers.Activation("linear", dtype="float32", name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile(keras.optimizers.SGD(1e-2), loss)
    return built


def batch():
    """Return eight images; the third fills the batch up and is empty."""
    rng = np.random.default_rng(54)
    x = rng.normal(size=(8, 9)).astype("float32")
    x[2] = 0
    return {"x": x, "y": rng.integers(0, 4, (8, 1)).astype("int32")}
