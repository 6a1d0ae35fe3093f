"""Healthy: float16's loss scale starts too high and is halved a few times, then training moves.

The trap: skipped steps hold infinite gradients on purpose.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}

ARGUMENTS = ["--steps", "20"]


def model():
    """Return a regression of house prices in thousands, under mixed precision."""
    keras.config.set_dtype_policy("mixed_float16")
    built = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(32, "relu", name="hidden_1"),
            keras.layers.Dense(16, "relu", name="hidden_2"),
            keras.layers.Dense(1, dtype="float32", name="price"),
        ]
    )
    inner = keras.optimizers.Adam(3e-2)
    built.compile(keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**20), "mse")
    return built


def batch():
    """Return thirty-two houses."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 6)).astype("float32")
    price = 5 + x[:, :1] - 2 * x[:, 1:2] + 0.1 * rng.normal(size=(32, 1))
    return {"x": x, "y": price.astype("float32")}
