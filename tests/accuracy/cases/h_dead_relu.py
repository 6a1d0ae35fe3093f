"""Healthy: most units of a layer never fire, the others do the work.

The trap: three quarters of a layer are constant zero and so are their gradients.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}


def model():
    """Return a classifier; twelve of sixteen hidden units died in a first, rougher phase."""
    built = keras.Sequential(
        [
            keras.Input((10,)),
            keras.layers.Dense(16, "relu", name="half_dead"),
            keras.layers.Dense(16, "relu", name="hidden"),
            keras.layers.Dense(3, "softmax", name="class"),
        ]
    )
    bias = np.zeros(16, "float32")
    bias[4:] = -20.0
    built.get_layer("half_dead").bias.assign(bias)
    built.compile(keras.optimizers.Adam(1e-3), "categorical_crossentropy", metrics=["accuracy"])
    return built


def batch():
    """Return thirty-two samples of three classes."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 32)
    x = rng.normal(size=(32, 10)) + np.eye(3, 10)[kind]
    return {"x": x.astype("float32"), "y": np.eye(3, dtype="float32")[kind]}
