"""The last layer of a classifier is a ReLU, and its own cross-entropy takes the log of it.

The family of keras-team/keras#590: a loss for probabilities on what is none.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "loss-activation-mismatch",
    "stage": "loss",
    "layer": None,
    "op": "Log",
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c21")
def cross_entropy(truth, prediction):
    """Return the cross-entropy of one-hot classes."""
    return -tf.reduce_sum(truth * tf.math.log(prediction), axis=-1)


def model():
    """Return a classifier of accelerometer windows."""
    built = keras.Sequential(
        [
            keras.Input((20, 3)),
            keras.layers.Conv1D(8, 5, activation="relu", name="conv"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(6, activation="relu", name="activity"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), cross_entropy, metrics=["accuracy"])
    return built


def batch():
    """Return sixteen windows."""
    rng = np.random.default_rng(33)
    classes = np.eye(6, dtype="float32")[rng.integers(0, 6, 16)]
    return {"x": rng.normal(size=(16, 20, 3)).astype("float32"), "y": classes}
