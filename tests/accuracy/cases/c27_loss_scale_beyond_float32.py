"""A static loss scale, meant as 2 ** 15, is written 2e38: the scaled loss is infinite.

The family of openai/guided-diffusion#50.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-hyperparameter",
    "stage": "update",
    "layer": None,
    "op": "Mul",
    "samples": [],
}
HELD_OUT = True


def model():
    """Return a regression whose loss starts near 20."""
    built = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(16, "relu", name="hidden"),
            keras.layers.Dense(1, name="target"),
        ]
    )
    built.compile(keras.optimizers.SGD(1e-3, loss_scale_factor=2e38), "mse")
    return built


def batch():
    """Return sixteen samples."""
    rng = np.random.default_rng(39)
    x = rng.normal(size=(16, 4)).astype("float32")
    return {"x": x, "y": 4 + x[:, :1]}
