"""A dead pixel is NaN, and the max-pooling that comes first drops it: loss and state stay finite.

From tensorflow/tensorflow#40072 and tensorflow/tensorflow#63392.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}


def model():
    """Return a classifier that halves its thermal images before anything else."""
    built = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.MaxPooling2D(2, name="shrink"),
            keras.layers.Conv2D(8, 3, activation="relu", name="conv"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, "softmax", name="class"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return eight images; two cameras have a dead pixel."""
    rng = np.random.default_rng(0)
    images = rng.random((8, 16, 16, 1)).astype("float32")
    images[2, 5, 7] = images[6, 0, 3] = np.nan
    return {"x": images, "y": rng.integers(0, 3, (8, 1)).astype("int32")}
