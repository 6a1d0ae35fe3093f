"""NaN marks a missing target, and the loss replaces it before it computes: all is well.

The control to keras-team/keras#1628.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}


@keras.saving.register_keras_serializable("h_nan_target_replaced")
class MeasuredError(keras.losses.Loss):
    """The absolute error over what was measured."""

    def call(self, y_true, y_pred):
        measured = tf.math.is_finite(y_true)
        y_true = tf.where(measured, y_true, tf.zeros_like(y_true))
        error = tf.abs(y_true - y_pred) * tf.cast(measured, y_pred.dtype)
        count = tf.math.count_nonzero(measured, axis=-1, dtype=y_pred.dtype)
        return tf.math.divide_no_nan(tf.reduce_sum(error, axis=-1), count)


def model():
    """Return a forecast of the air at four stations from the weather."""
    weather = keras.Input((12, 5), name="weather")
    hidden = keras.layers.Conv1D(8, 3, padding="causal", activation="relu", name="conv")(weather)
    hidden = keras.layers.GRU(8, name="gru")(hidden)
    built = keras.Model(weather, keras.layers.Dense(4, name="stations")(hidden))
    built.compile(keras.optimizers.Adam(1e-3), MeasuredError())
    return built


def batch():
    """Return sixteen days; a station was broken now and then, and on one day all of them."""
    rng = np.random.default_rng(2)
    targets = rng.normal(size=(16, 4)).astype("float32")
    targets[rng.random((16, 4)) < 0.2] = np.nan
    targets[11] = np.nan
    return {"x": rng.normal(size=(16, 12, 5)).astype("float32"), "y": targets}
