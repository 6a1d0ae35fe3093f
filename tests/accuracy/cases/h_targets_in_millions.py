"""Healthy: prices of houses in whole dollars; the loss begins at 9e10 and falls.

The unscaled targets are no beauty, but Adam at a rate of 5,000 gets there.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}
HELD_OUT = True

ARGUMENTS = ["--steps", "40"]


def model():
    """Return a linear regression with a rate that fits its targets."""
    built = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="price")])
    built.compile(keras.optimizers.Adam(5000.0), "mse")
    return built


def batch():
    """Return forty houses at about 300,000."""
    rng = np.random.default_rng(62)
    x = rng.normal(size=(40, 4)).astype("float32")
    price = 3e5 + 5e4 * x[:, :1] - 3e4 * x[:, 1:2]
    return {"x": x, "y": price.astype("float32")}
