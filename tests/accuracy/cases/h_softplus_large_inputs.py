"""Healthy: softplus activations at +-1e4, where exp alone would overflow.

The remedy of hunglc007/tensorflow-yolov4-tflite#1.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}


@keras.saving.register_keras_serializable("h_softplus")
def stable_mish(x):
    """Return x * tanh(softplus(x))."""
    return x * tf.math.tanh(tf.nn.softplus(x))


def model():
    """Return a regression of river levels, whose first layers have grown large weights."""
    built = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(12, activation="softplus", name="wide"),
            keras.layers.Dense(12, activation=stable_mish, name="mish"),
            keras.layers.Dense(1, activation="softplus", name="level"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "mae")
    rng = np.random.default_rng(1)
    built.layers[0].set_weights([rng.normal(size=(6, 12)) * 5e3, np.zeros(12)])
    built.layers[1].set_weights([rng.normal(size=(12, 12)), np.zeros(12)])
    built.layers[2].set_weights([rng.normal(size=(12, 1)) * 1e-3, np.zeros(1)])
    return built


def batch():
    """Return twelve days of measurements."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(12, 6)).astype("float32"),
        "y": rng.random((12, 1)).astype("float32") * 40.0,
    }
