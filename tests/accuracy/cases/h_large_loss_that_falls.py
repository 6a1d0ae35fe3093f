"""House prices in thousands: a squared error of 1e8 that falls from step to step.

The control to keras-team/keras#3040.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}

ARGUMENTS = ["--steps", "25"]


def model():
    """Return a regression on standardised features, with the usual rate of Adam raised."""
    features = keras.Input((8,), name="features")
    hidden = keras.layers.Dense(32, activation="relu", name="dense_1")(features)
    hidden = keras.layers.Dense(32, activation="relu", name="dense_2")(hidden)
    built = keras.Model(features, keras.layers.Dense(1, name="price")(hidden))
    built.compile(keras.optimizers.Adam(0.03), "mse", metrics=["mae"])
    return built


def batch():
    """Return 32 houses, whose prices are what they are."""
    rng = np.random.default_rng(10)
    x = rng.normal(size=(32, 8)).astype("float32")
    price = 1e4 + 2e3 * x[:, :1] + 1e3 * rng.normal(size=(32, 1))
    return {"x": x, "y": price.astype("float32")}
