"""A layer takes the log of word counts without the plus one, and one text lacks every such word.

The family of AntixK/PyTorch-VAE#16.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "log-of-zero",
    "stage": "forward",
    "layer": "log_lengths",
    "op": "Log",
    "samples": [7],
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c10")
class LogLength(keras.layers.Layer):
    """Gives the log of a text's number of words next to the share of each word."""

    def call(self, counts):
        """Return the shares and the log of the length."""
        length = tf.reduce_sum(counts, axis=-1, keepdims=True)
        shares = tf.math.divide_no_nan(counts, length)
        return tf.concat([shares, tf.math.log(length)], axis=-1)


def model():
    """Return a classifier of reviews."""
    built = keras.Sequential(
        [
            keras.Input((30,)),
            LogLength(name="log_lengths"),
            keras.layers.Dense(16, "relu", name="hidden"),
            keras.layers.Dense(1, "sigmoid", name="positive"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    return built


def batch():
    """Return ten reviews as counts; the eighth is a picture without a word."""
    rng = np.random.default_rng(20)
    counts = rng.poisson(0.7, (10, 30)).astype("float32")
    counts[7] = 0
    return {"x": counts, "y": rng.integers(0, 2, (10, 1)).astype("float32")}
