"""Healthy: the user's own metric is 0/0, as no sample is predicted positive; the loss is not."""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}
HELD_OUT = True


@keras.saving.register_keras_serializable("h_metric")
def precision(truth, prediction):
    """Return the precision; NaN where nothing is predicted positive."""
    positive = tf.cast(prediction > 0.5, tf.float32)
    return tf.reduce_sum(truth * positive) / tf.reduce_sum(positive)


def model():
    """Return a detector of rare events that says no to everything."""
    built = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, "relu", name="hidden"),
            keras.layers.Dense(1, "sigmoid", bias_initializer="ones", name="event"),
        ]
    )
    built.get_layer("event").bias.assign([-6.0])
    built.compile(keras.optimizers.Adam(1e-4), "binary_crossentropy", metrics=[precision])
    return built


def batch():
    """Return sixteen samples, one of them an event."""
    rng = np.random.default_rng(73)
    y = np.zeros((16, 1), "float32")
    y[5] = 1
    return {"x": rng.normal(size=(16, 6)).astype("float32"), "y": y}
