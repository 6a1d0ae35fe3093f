"""Healthy: log of a softmax that is exactly 0 and 1, clipped to 1e-7 before, not after.

The remedy of keras-team/keras#377.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}
HELD_OUT = True


@keras.saving.register_keras_serializable("h_clipped")
def cross_entropy(truth, prediction):
    """Return the cross-entropy of clipped probabilities."""
    return -tf.reduce_sum(truth * tf.math.log(tf.clip_by_value(prediction, 1e-7, 1.0)), axis=-1)


def model():
    """Return a classifier whose logits are thousands apart."""
    built = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, name="logits", kernel_initializer="identity"),
            keras.layers.Softmax(name="probabilities"),
        ]
    )
    built.layers[0].kernel.assign(3000 * np.eye(4))
    built.compile(keras.optimizers.Adam(1e-3), cross_entropy)
    return built


def batch():
    """Return nine samples; the first five are beyond all doubt, some of them wrong."""
    rng = np.random.default_rng(69)
    x = rng.normal(size=(9, 4)).astype("float32")
    x[5:] *= 3e-4
    return {"x": x, "y": np.eye(4, dtype="float32")[rng.integers(0, 4, 9)]}
