"""A convolutional net is trained by SGD with momentum at a rate of 5: its loss leaps and stays up.

The family of OpenNMT/OpenNMT-tf#744: a rate from another optimizer's recipe.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "high-learning-rate",
    "stage": "update",
    "samples": [],
}
HELD_OUT = True


def model():
    """Return a regression of a density from small pictures."""
    built = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, activation="relu", name="conv"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(1, name="density"),
        ]
    )
    built.compile(keras.optimizers.SGD(5.0, momentum=0.9), "mse")
    return built


def batch():
    """Return sixteen standardised pictures with a target of order 1."""
    rng = np.random.default_rng(35)
    x = rng.normal(size=(16, 8, 8, 1)).astype("float32")
    return {"x": x, "y": 1 + x.mean(axis=(1, 2)).astype("float32")}
