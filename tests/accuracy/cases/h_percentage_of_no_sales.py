"""Keras' own percentage error on a day without sales: 6e7, but finite, and it falls.

The control to keras-team/keras#333.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}

ARGUMENTS = ["--steps", "20"]


def model():
    """Return a forecast of the sales of one day, with a rate that is small enough."""
    built = keras.Sequential(
        [
            keras.Input((14, 2)),
            keras.layers.LSTM(8),
            keras.layers.Dense(12, activation="relu"),
            keras.layers.Dense(1, bias_initializer="ones"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-4), "mape")
    return built


def batch():
    """Return sixteen shops; one of them sold nothing."""
    rng = np.random.default_rng(14)
    sales = rng.uniform(0.5, 2.0, (16, 1)).astype("float32")
    sales[6] = 0.0
    return {"x": rng.normal(size=(16, 14, 2)).astype("float32"), "y": sales}
