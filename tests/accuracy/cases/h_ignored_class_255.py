"""Void pixels are 255 of 3 classes, and the loss leaves class 255 out.

The control to tensorflow/models#3739.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}

SIZE, CLASSES = 8, 3


def model():
    """Return a small encoder and decoder with softmax at every pixel."""
    built = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Conv2D(8, 3, 2, padding="same", activation="swish"),
            keras.layers.GroupNormalization(4),
            keras.layers.Conv2DTranspose(8, 3, 2, padding="same", activation="swish"),
            keras.layers.Conv2D(CLASSES, 1, activation="softmax"),
        ]
    )
    built.compile(
        keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(ignore_class=255)
    )
    return built


def batch():
    """Return six tiles with a border of void pixels; the last is void altogether."""
    rng = np.random.default_rng(16)
    masks = rng.integers(0, CLASSES, (6, SIZE, SIZE)).astype("uint8")
    masks[:, :2] = masks[-1] = 255
    return {"x": rng.random((6, SIZE, SIZE, 3)).astype("float32"), "y": masks}
