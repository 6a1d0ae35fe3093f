"""Healthy: a batch of one picture through batch, group and layer normalisation, with an epsilon.

The trap of tensorflow/tensorflow#34062.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}
HELD_OUT = True


def model():
    """Return a net whose second normalisation sees one value for each channel."""
    built = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            keras.layers.Conv2D(6, 4, name="conv"),
            keras.layers.BatchNormalization(name="over_batch"),
            keras.layers.ReLU(name="relu"),
            keras.layers.GroupNormalization(groups=6, name="over_channel"),
            keras.layers.Flatten(),
            keras.layers.LayerNormalization(name="over_features"),
            keras.layers.Dense(3, "softmax", name="class"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return one picture."""
    rng = np.random.default_rng(66)
    return {"x": rng.random((1, 4, 4, 2)).astype("float32"), "y": np.array([[1]], "int32")}
