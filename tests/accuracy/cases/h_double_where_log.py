"""Healthy: log behind a double where, one on its input and one on its output.

The remedy of tensorflow/tensorflow#38349.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}


@keras.saving.register_keras_serializable("h_where")
class SafeLog(keras.layers.Layer):
    """Log of what is positive, zero elsewhere, with a derivative that is safe as well."""

    def call(self, values):
        """Return the log of the positive values."""
        positive = values > 0.0
        inside = tf.where(positive, values, tf.ones_like(values))
        return tf.where(positive, tf.math.log(inside), tf.zeros_like(values))


def model():
    """Return a classifier of documents over topic weights, many of which are zero."""
    words = keras.Input((20,), name="words")
    topics = keras.layers.Dense(8, activation="relu", use_bias=False, name="topics")(words)
    hidden = keras.layers.Dense(12, activation="relu", name="hidden")(SafeLog(name="log")(topics))
    built = keras.Model(words, keras.layers.Dense(4, activation="softmax", name="section")(hidden))
    built.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return sixteen documents; the eleventh is empty."""
    rng = np.random.default_rng(0)
    words = rng.poisson(0.8, (16, 20)).astype("float32")
    words[10] = 0.0
    return {"x": words, "y": rng.integers(0, 4, (16, 1)).astype("int32")}
