"""A rate of 1, fine for a linear model, is used for three layers: the second step overshoots.

The family of OpenNMT/OpenNMT-tf#220.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "high-learning-rate",
    "stage": "update",
    "samples": [],
}
HELD_OUT = True


def model():
    """Return a regression of three hidden layers."""
    built = keras.Sequential([keras.Input((10,))])
    for number in range(3):
        built.add(keras.layers.Dense(48, "relu", name=f"hidden_{number}"))
    built.add(keras.layers.Dense(1, name="target"))
    built.compile(keras.optimizers.SGD(1.0), "mse")
    return built


def batch():
    """Return sixty-four samples, standardised."""
    rng = np.random.default_rng(36)
    x = rng.normal(size=(64, 10)).astype("float32")
    return {"x": x, "y": np.tanh(x[:, :1] - x[:, 1:2])}
