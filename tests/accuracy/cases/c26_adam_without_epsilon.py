"""Adam is given an epsilon of 0, and a column of the table is 0 throughout: its update is 0/0.

The family of tensorflow/tensorflow#7226, in float32.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-hyperparameter",
    "stage": "update",
    "layer": None,
    "op": "RealDiv",
    "samples": [],
}
HELD_OUT = True


def model():
    """Return a tabular classifier."""
    built = keras.Sequential(
        [
            keras.Input((9,)),
            keras.layers.Dense(16, "silu", name="hidden"),
            keras.layers.Dense(1, "sigmoid", name="default"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3, epsilon=0.0), "binary_crossentropy")
    return built


def batch():
    """Return twenty loans; nobody in the batch has the ninth property."""
    rng = np.random.default_rng(38)
    table = rng.normal(size=(20, 9)).astype("float32")
    table[:, 8] = 0
    return {"x": table, "y": rng.integers(0, 2, (20, 1)).astype("float32")}
