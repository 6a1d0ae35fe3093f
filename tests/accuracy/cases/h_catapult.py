"""Healthy: a catapult. The rate is beyond 2 / curvature, the loss spikes a hundredfold, the weights
move to where it is flatter, and the loss falls to nothing.

The trap: ten steps of it look like a divergence (Lewkowycz et al. 2020).
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}

ARGUMENTS = ["--steps", "40"]

WIDTH = 64


def model():
    """Return a wide linear network of two layers."""
    built = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(WIDTH, use_bias=False, name="in"),
            keras.layers.Dense(1, use_bias=False, name="out"),
        ]
    )
    rng = np.random.default_rng(5)
    first = 0.5 * rng.normal(size=(4, WIDTH))
    built.set_weights([first, 0.1 * rng.normal(size=(WIDTH, 1))])
    built.compile(keras.optimizers.SGD(0.0464), "mse")
    return built


def batch():
    """Return the whole data set: sixteen points of a linear target."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 4)).astype("float32")
    return {"x": x, "y": x @ np.array([[0.1], [-0.1], [0.05], [0.0]], "float32")}
