"""A loss takes the logarithm of intensities that may be 0, and guards what goes INTO the log.

The control to qqwweee/keras-yolo3#171.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}


@keras.saving.register_keras_serializable("h_log_guarded_at_input")
def log_error(y_true, y_pred):
    """Return the squared error of the logarithms, where both have one."""
    both = tf.logical_and(y_true > 0.0, y_pred > 0.0)
    one = tf.ones_like(y_pred)
    error = tf.math.log(tf.where(both, y_true, one)) - tf.math.log(tf.where(both, y_pred, one))
    missed = tf.where(both, 0.0, tf.abs(y_true - y_pred))
    return tf.reduce_mean(tf.square(error) + missed, axis=[1, 2])


def model():
    """Return a U-shaped net that clears up a spectrogram; ReLU makes its zeros."""
    noisy = keras.Input((16, 12), name="noisy")
    down = keras.layers.Conv1D(12, 4, 2, padding="same", activation="relu", name="down")(noisy)
    up = keras.layers.Conv1DTranspose(12, 4, 2, padding="same", activation="relu", name="up")(down)
    joined = keras.layers.Concatenate(name="skip")([noisy, up])
    clear = keras.layers.Conv1D(12, 1, activation="relu", name="clear")(joined)
    built = keras.Model(noisy, clear)
    built.compile(keras.optimizers.Adam(1e-3), log_error)
    return built


def batch():
    """Return eight spectrograms, one of them silent."""
    rng = np.random.default_rng(3)
    clear = np.maximum(rng.normal(size=(8, 16, 12)), 0.0)
    clear[5] = 0.0
    noisy = clear + 0.1 * rng.random((8, 16, 12))
    return {"x": noisy.astype("float32"), "y": clear.astype("float32")}
