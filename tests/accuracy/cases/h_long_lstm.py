"""Healthy: an LSTM reads 200 steps and remembers the first of them.

The trap: gradients shrink by decades on the way back through time.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}

STEPS = 200


def model():
    """Return a classifier of long sequences."""
    built = keras.Sequential(
        [
            keras.Input((STEPS, 2)),
            keras.layers.LSTM(12, name="lstm"),
            keras.layers.Dense(1, "sigmoid", name="first_sign"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-2, clipnorm=1.0), "binary_crossentropy")
    return built


def batch():
    """Return eight sequences; the label is the sign of the first value."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, STEPS, 2)).astype("float32")
    return {"x": x, "y": (x[:, 0, :1] > 0).astype("float32")}
