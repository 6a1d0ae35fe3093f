"""Healthy: the weight penalty is thousands of times the data loss, finite, and falls.

The trap: the loss is large and hardly any of it comes from the data.
"""

import keras
import numpy as np
from keras import layers, regularizers

EXPECTED = {"outcome": "healthy"}


def model():
    """Return a two-layer regression that is regularised far too much."""
    wide = {"kernel_initializer": keras.initializers.RandomNormal(stddev=3.0)}
    x = keras.Input((8,), name="features")
    hidden = layers.Dense(
        24, "tanh", kernel_regularizer=regularizers.L1L2(1.0, 5.0), name="hidden", **wide
    )(x)
    y = layers.Dense(1, kernel_regularizer=regularizers.L2(5.0), name="out")(hidden)
    built = keras.Model(x, y)
    built.compile(keras.optimizers.SGD(1e-3, momentum=0.9), "mae")
    return built


def batch():
    """Return sixteen samples."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 8)).astype("float32")
    return {"x": x, "y": np.tanh(x[:, :1])}
