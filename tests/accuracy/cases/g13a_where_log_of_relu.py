"""log is guarded by where(z > 0, log(z), 0), but the branch not taken has a derivative: 0 * inf.

From tensorflow/tensorflow#38349 and tensorflow/tensorflow#2540.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "gradient-singularity",
    "stage": "backward",
    "layer": "log_topics",
    "op": "Log",
    "samples": [10],
}


@keras.saving.register_keras_serializable("g13a")
class GuardedLog(keras.layers.Layer):
    """Log of what is positive, zero elsewhere."""

    def call(self, values):
        """Return the log of the positive values."""
        return tf.where(values > 0.0, tf.math.log(values), tf.zeros_like(values))


def model():
    """Return a classifier of documents over non-negative topic weights."""
    words = keras.Input((20,), name="words")
    topics = keras.layers.Dense(
        6,
        activation="relu",
        use_bias=False,
        kernel_initializer=keras.initializers.RandomUniform(0.05, 0.6, seed=2),
        kernel_constraint="non_neg",
        name="topics",
    )(words)
    hidden = keras.layers.Dense(12, activation="relu", name="hidden")(
        GuardedLog(name="log_topics")(topics)
    )
    section = keras.layers.Dense(4, activation="softmax", name="section")(hidden)
    built = keras.Model(words, section)
    built.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return sixteen documents; the eleventh has no word of the vocabulary."""
    rng = np.random.default_rng(0)
    words = rng.poisson(0.8, (16, 20)).astype("float32")
    words[10] = 0.0
    return {"x": words, "y": rng.integers(0, 4, (16, 1)).astype("int32")}
