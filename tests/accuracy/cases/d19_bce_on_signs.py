"""Churn is coded -1 and +1 and judged by binary cross-entropy: the loss falls below 0 for ever.

From keras-team/keras#14046, tensorflow/tensorflow#71638 and keras-team/keras#13926.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-labels",
    "stage": "data",
    "samples": [2, 4, 5, 6, 7, 14, 16, 18, 20, 22, 24, 26, 28, 29],
}

ARGUMENTS = ["--steps", "40"]


def model():
    """Return a small classifier of customers."""
    built = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(1),
        ]
    )
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    built.compile(keras.optimizers.Adam(0.01), loss, metrics=["mae"])
    return built


def batch():
    """Return 32 customers; fourteen of them stayed."""
    rng = np.random.default_rng(19)
    x = rng.normal(size=(32, 6)).astype("float32")
    return {"x": x, "y": np.where(x[:, :1] + x[:, 1:2] > 0, 1.0, -1.0).astype("float32")}
