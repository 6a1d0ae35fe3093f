"""Healthy: trained weights, a fresh Adam: its first steps have full length, the loss bumps once.

The trap: the loss of the first steps rises to several times its value.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}

ARGUMENTS = ["--steps", "30"]


def model():
    """Return a fine-tuned classifier whose optimizer was just created."""
    pixels = keras.Input((8, 8, 1), name="digit")
    hidden = keras.layers.Conv2D(8, 3, activation="relu", name="conv")(pixels)
    hidden = keras.layers.Flatten()(hidden)
    built = keras.Model(pixels, keras.layers.Dense(4, "softmax", name="class")(hidden))
    built.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    data = batch()
    for _ in range(60):
        built.train_on_batch(data["x"], data["y"])
    built.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return thirty-two images of four kinds."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 32)
    images = rng.random((32, 8, 8, 1))
    for image, corner in zip(images, kind, strict=True):
        image[4 * (corner // 2) :, 4 * (corner % 2) :] += 0.3
    return {"x": images.astype("float32"), "y": kind.astype("int32").reshape(-1, 1)}
