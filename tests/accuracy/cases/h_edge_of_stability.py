"""Healthy: full-batch gradient descent at the edge of stability; the loss jumps and yet falls.

The trap: the largest curvature stands at 2 / rate and above (Cohen et al. 2021).
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}

ARGUMENTS = ["--steps", "100"]


def model():
    """Return a tanh network after 200 steps of gradient descent at a rate of 0.25."""
    built = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(24, "tanh", name="hidden_1"),
            keras.layers.Dense(24, "tanh", name="hidden_2"),
            keras.layers.Dense(1, name="out"),
        ]
    )
    built.compile(keras.optimizers.SGD(0.25), "mse")
    data = batch()
    for _ in range(200):
        built.train_on_batch(data["x"], data["y"])
    return built


def batch():
    """Return the whole data set: a wave over three features."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (32, 3)).astype("float32")
    return {"x": x, "y": np.sin(4 * x.sum(1, keepdims=True)).astype("float32")}
