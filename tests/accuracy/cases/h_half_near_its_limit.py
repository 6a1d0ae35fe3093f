"""Healthy: activations of up to 60,000 under mixed precision, 8 % below float16's limit."""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}
HELD_OUT = True


def model():
    """Return a net whose trained gain is large, and whose head takes it back."""
    keras.config.set_dtype_policy("mixed_float16")
    built = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(6, use_bias=False, name="gain", kernel_initializer="identity"),
            keras.layers.Rescaling(1 / 40000, name="back"),
            keras.layers.Dense(1, dtype="float32", name="target"),
        ]
    )
    built.get_layer("gain").kernel.assign(40000 * np.eye(6))
    built.compile(keras.optimizers.Adam(1e-3), "mse")
    return built


def batch():
    """Return ten samples in -1.5..1.5."""
    x = np.random.default_rng(61).uniform(-1, 1, (10, 6)).astype("float32")
    x[:, 0] = 1.5
    return {"x": x, "y": x[:, 1:2]}
