"""A batch of 0 items under a built-in loss of Keras 3: no loss, no gradient, nothing learned.

The control to keras-team/keras#1244.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}


def model():
    """Return a small regression on tabular data."""
    built = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(16, activation="tanh"),
            keras.layers.Dense(16, activation="tanh"),
            keras.layers.Dense(1),
        ]
    )
    built.compile("rmsprop", "mse")
    return built


def batch():
    """Return what is left of 1,024 rows after 32 batches of 32."""
    x = np.random.default_rng(1).normal(size=(1024, 4)).astype("float32")
    return {"x": x[32 * 32 :], "y": x[32 * 32 :, :1]}
