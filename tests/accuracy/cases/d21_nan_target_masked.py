"""NaN marks a test that was not made; the loss multiplies it with a mask of 0, and 0 * NaN is NaN.

From keras-team/keras#1628 and keras-team/keras#9549.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "diverged", "cause": "bad-labels", "stage": "data", "samples": [2, 7]}

TASKS = 3


@keras.saving.register_keras_serializable("d21")
class MaskedError(keras.losses.Loss):
    """The squared error over the tests that were made."""

    def call(self, y_true, y_pred):
        made = tf.cast(tf.math.is_finite(y_true), y_pred.dtype)
        error = tf.square(y_true - y_pred) * made
        return tf.reduce_sum(error, axis=-1) / tf.maximum(tf.reduce_sum(made, axis=-1), 1.0)


def model():
    """Return a multi-task regression on fingerprints of molecules."""
    fingerprint = keras.Input((32,), name="fingerprint")
    shared = keras.layers.Dense(24, activation="relu", name="shared")(fingerprint)
    shared = keras.layers.Dropout(0.1, name="dropout")(shared)
    heads = [keras.layers.Dense(1, name=f"task_{task}")(shared) for task in range(TASKS)]
    built = keras.Model(fingerprint, keras.layers.Concatenate(name="toxicity")(heads))
    built.compile(keras.optimizers.Nadam(1e-3), MaskedError(name="masked"))
    return built


def batch():
    """Return twelve molecules; two of them were not put to every test."""
    rng = np.random.default_rng(21)
    targets = rng.normal(size=(12, TASKS)).astype("float32")
    targets[2, 1] = targets[7, 0] = targets[7, 2] = np.nan
    return {"x": (rng.random((12, 32)) < 0.2).astype("float32"), "y": targets}
