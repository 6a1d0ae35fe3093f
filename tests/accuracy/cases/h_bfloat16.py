"""Healthy: a convolutional classifier that holds weights and activations in bfloat16.

The trap: a precision of three digits, and updates that round away.
"""

import keras
import numpy as np
from keras import layers

EXPECTED = {"outcome": "healthy"}


def model():
    """Return the classifier."""
    keras.config.set_dtype_policy("bfloat16")
    image = keras.Input((12, 12, 3), name="image")
    hidden = layers.Conv2D(8, 3, use_bias=False, name="conv_1")(image)
    hidden = layers.BatchNormalization(name="bn_1")(hidden)
    hidden = layers.Activation("relu")(hidden)
    hidden = layers.Conv2D(12, 3, activation="relu", name="conv_2")(hidden)
    hidden = layers.GlobalAveragePooling2D()(hidden)
    built = keras.Model(image, layers.Dense(5, "softmax", dtype="float32", name="class")(hidden))
    built.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return sixteen standardised images."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(16, 12, 12, 3)).astype("float32"),
        "y": rng.integers(0, 5, (16, 1)).astype("int32"),
    }
