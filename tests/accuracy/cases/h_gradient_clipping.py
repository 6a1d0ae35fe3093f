"""Healthy: gradients of many thousands, every one of them clipped to a norm of 1.

The trap: raw targets and gradients are huge, the updates are not.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}


def model():
    """Return a recurrent regression of counts that were never scaled."""
    built = keras.Sequential(
        [
            keras.Input((12, 2)),
            keras.layers.GRU(16, name="gru"),
            keras.layers.Dense(1, name="visitors"),
        ]
    )
    built.compile(keras.optimizers.SGD(0.1, momentum=0.9, global_clipnorm=1.0), "mse")
    return built


def batch():
    """Return sixteen weeks and the visitors of the next day."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(16, 12, 2)).astype("float32"),
        "y": rng.normal(8000, 1500, (16, 1)).astype("float32"),
    }
