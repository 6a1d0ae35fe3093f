"""Healthy: heavy momentum carries the loss to almost twice its value before it comes down."""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}
HELD_OUT = True

ARGUMENTS = ["--steps", "40"]


def model():
    """Return a linear regression under SGD with a momentum of 0.97."""
    built = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, name="line")])
    built.compile(keras.optimizers.SGD(0.05, momentum=0.97), "mse")
    data = batch()
    for _ in range(12):
        built.train_on_batch(data["x"], data["y"])
    return built


def batch():
    """Return thirty-two samples."""
    x = np.random.default_rng(72).normal(size=(32, 3)).astype("float32")
    return {"x": x, "y": 3 + x[:, :1] - 2 * x[:, 1:2]}
