"""A correction for bias subtracts too much and makes two weights negative: their error is rewarded.

An objective without a lower bound, as in maxpumperla/deep_learning_and_the_game_of_go#90.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-sample-weight",
    "stage": "data",
    "samples": [2, 9],
}
HELD_OUT = True

ARGUMENTS = ["--steps", "40"]


def model():
    """Return a regression on eight features."""
    built = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(32, "tanh", name="hidden"),
            keras.layers.Dense(1, name="demand"),
        ]
    )
    built.compile(keras.optimizers.SGD(0.05), "mse")
    return built


def batch():
    """Return twelve days; the weights of the third and of the tenth are below zero."""
    rng = np.random.default_rng(19)
    weights = rng.uniform(0.5, 1.5, 12)
    weights[[2, 9]] = -4.0, -3.0
    return {
        "x": rng.normal(size=(12, 8)).astype("float32"),
        "y": rng.normal(size=(12, 1)).astype("float32"),
        "sample_weight": weights.astype("float32"),
    }
