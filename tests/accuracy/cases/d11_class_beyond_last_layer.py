"""The sixth class was added to the data and not to the last layer: one label is 5 of 0 to 4.

From tensorflow/tensorflow#8484, tensorflow/tensorflow#10268 and tensorflow/tensorflow#57173.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-labels",
    "stage": "data",
    "layer": None,
    "op": "SparseSoftmaxCrossEntropyWithLogits",
    "samples": [6],
}

CLASSES = 5


def model():
    """Return a small classifier of images."""
    built = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dropout(0.25),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    built.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return built


def batch():
    """Return sixteen images with their classes."""
    rng = np.random.default_rng(11)
    classes = rng.integers(0, CLASSES, 16)
    classes[6] = CLASSES
    return {"x": rng.random((16, 8, 8, 3)).astype("float32"), "y": classes}
