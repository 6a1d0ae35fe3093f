"""The last batch holds one sample; batch normalisation sees no variance and stays finite.

The control to keras-team/keras#2134.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}


def model():
    """Return a classifier of tabular data with a batch normalisation in each block."""
    built = keras.Sequential([keras.Input((9,))])
    for units in (16, 8):
        built.add(keras.layers.Dense(units, use_bias=False))
        built.add(keras.layers.BatchNormalization(epsilon=1e-5))
        built.add(keras.layers.Activation("relu"))
    built.add(keras.layers.Dense(3, activation="softmax"))
    built.compile(keras.optimizers.SGD(0.05), "categorical_crossentropy", metrics=["accuracy"])
    return built


def batch():
    """Return one sample."""
    rng = np.random.default_rng(6)
    return {"x": rng.normal(size=(1, 9)).astype("float32"), "y": np.eye(3, dtype="float32")[[2]]}
