"""The time of an order goes in as seconds since 1970, beside features of order 1.

The mechanism of keras-team/keras#3040 on a table.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "diverged", "cause": "unscaled-input", "stage": "data", "samples": []}
HELD_OUT = True


def model():
    """Return a small net for the duration of a delivery."""
    built = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(16, "relu", name="hidden"),
            keras.layers.Dense(1, name="hours"),
        ]
    )
    built.compile(keras.optimizers.SGD(0.01), "mse")
    return built


def batch():
    """Return sixteen orders of one month."""
    rng = np.random.default_rng(13)
    table = rng.normal(size=(16, 4)).astype("float32")
    table[:, 2] = 1_700_000_000 + rng.uniform(0, 2.6e6, 16)
    return {"x": table, "y": (2 + table[:, :1]).astype("float32")}
