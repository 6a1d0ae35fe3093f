"""Batch normalisation with an epsilon of 0 meets a feature that is the same in the whole batch.

The family of tensorflow/tensorflow#61287 along the other axis.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "degenerate-normalization",
    "stage": "forward",
    "layer": "standardise",
    "op": "Rsqrt",
    "samples": [],
}
HELD_OUT = True


def model():
    """Return a tabular net."""
    built = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.BatchNormalization(epsilon=0.0, name="standardise"),
            keras.layers.Dense(16, "relu", name="hidden"),
            keras.layers.Dense(1, name="target"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "mse")
    return built


def batch():
    """Return sixteen customers, all of one country."""
    rng = np.random.default_rng(45)
    table = rng.normal(size=(16, 6)).astype("float32")
    table[:, 3] = 1.0
    return {"x": table, "y": rng.normal(size=(16, 1)).astype("float32")}
