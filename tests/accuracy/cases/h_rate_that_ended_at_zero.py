"""Healthy: a polynomial decay has ended at a rate of exactly 0, the job runs on: nothing moves."""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}
HELD_OUT = True


def model():
    """Return a trained regression 50 steps after the end of its schedule."""
    built = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(12, "tanh", name="hidden"),
            keras.layers.Dense(1, name="target"),
        ]
    )
    decay = keras.optimizers.schedules.PolynomialDecay(0.05, 60, end_learning_rate=0.0, power=2.0)
    built.compile(keras.optimizers.SGD(decay), "mse")
    data = batch()
    built.fit(data["x"], data["y"], batch_size=32, epochs=60, shuffle=False, verbose=0)
    built.optimizer.iterations.assign(110)
    return built


def batch():
    """Return thirty-two samples."""
    x = np.random.default_rng(65).normal(size=(32, 5)).astype("float32")
    return {"x": x, "y": np.sin(x[:, :1])}
