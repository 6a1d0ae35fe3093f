"""Embeddings of size 300 are brought to unit scale by hand, in float16: their squares overflow.

The family of huggingface/transformers#12225.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "low-precision-overflow",
    "stage": "forward",
    "layer": "unit_length",
    "op": "Square",
    "samples": [],
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c39")
class UnitLength(keras.layers.Layer):
    """Scales vectors to a mean square of 1, and keeps the log of what it divided by."""

    def call(self, vectors):
        """Return the scaled vectors and that log."""
        square = tf.reduce_mean(tf.square(vectors), axis=-1, keepdims=True)
        return tf.concat([vectors * tf.math.rsqrt(square + 0.01), tf.math.log(square + 1)], axis=-1)


def model():
    """Return a verifier of faces under mixed precision."""
    keras.config.set_dtype_policy("mixed_float16")
    built = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8, use_bias=False, name="embed", kernel_initializer="identity"),
            UnitLength(name="unit_length"),
            keras.layers.Dense(2, dtype="float32", name="same"),
        ]
    )
    built.get_layer("embed").kernel.assign(300 * np.eye(8))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile(keras.optimizers.SGD(1e-3), loss)
    return built


def batch():
    """Return eight pairs, told by features of order 1."""
    rng = np.random.default_rng(51)
    x = rng.choice([-1.0, 1.0], (8, 8)) * rng.uniform(0.9, 1.5, (8, 8))
    return {"x": x.astype("float32"), "y": rng.integers(0, 2, (8, 1)).astype("int32")}
