"""Samples are weighted by 1 / frequency of their class, counted on another split: one is infinite.

The family of perslev/MultiPlanarUNet#24.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "diverged", "cause": "bad-sample-weight", "stage": "data", "samples": [4]}
HELD_OUT = True


def model():
    """Return a classifier of three classes."""
    built = keras.Sequential(
        [
            keras.Input((7,)),
            keras.layers.Dense(16, "relu", name="hidden"),
            keras.layers.Dense(3, "softmax", name="class"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return ten samples; class 2 stands only in the fifth, and was in none that was counted."""
    rng = np.random.default_rng(17)
    labels = rng.integers(0, 2, 10)
    labels[4] = 2
    counted = np.array([60.0, 40.0, 0.0])
    with np.errstate(divide="ignore"):
        weights = (100 / counted)[labels]
    return {
        "x": rng.normal(size=(10, 7)).astype("float32"),
        "y": labels[:, None].astype("int32"),
        "sample_weight": weights.astype("float32"),
    }
