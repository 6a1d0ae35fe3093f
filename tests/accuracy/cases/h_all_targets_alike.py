"""Healthy: every target is 0 and the last layer starts at 0: loss and gradients are zero."""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}
HELD_OUT = True


def model():
    """Return a regression of residuals, with a head that starts at zero."""
    built = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(12, "relu", name="hidden"),
            keras.layers.Dense(1, kernel_initializer="zeros", name="residual"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "mse")
    return built


def batch():
    """Return twelve samples without a residual."""
    x = np.random.default_rng(68).normal(size=(12, 5)).astype("float32")
    return {"x": x, "y": np.zeros((12, 1), "float32")}
