"""A linear regression on x up to 199: even a rate of 0.001 is beyond 2 / curvature there.

From keras-team/keras#3040.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "unscaled-input",
    "stage": "data",
    "samples": [],
}


def model():
    """Return a regression of one weight and one bias."""
    built = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="line")])
    built.compile(keras.optimizers.SGD(learning_rate=0.001), "mse")
    return built


def batch():
    """Return points of y = 2x."""
    x = np.arange(0.0, 200.0, 6.25, dtype="float32").reshape(-1, 1)
    return {"x": x, "y": 2.0 * x}
