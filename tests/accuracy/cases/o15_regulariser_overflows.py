"""A kernel has grown to 1e20: its L2 penalty is infinite while both displayed losses are fine.

From matterport/Mask_RCNN#1780 and matterport/Mask_RCNN#1162.
"""

import keras
import numpy as np
from keras import layers

EXPECTED = {
    "outcome": "diverged",
    "cause": "corrupt-weights",
    "stage": "checkpoint",
    "layer": None,
    "op": "Square",
    "samples": [],
}


def model():
    """Return a region head with two outputs whose shared layer exploded in an earlier epoch."""
    penalty = {"kernel_regularizer": keras.regularizers.L2(0.5)}
    region = keras.Input((7, 7, 4), name="region")
    hidden = layers.Conv2D(8, 3, activation="relu", name="head_conv", **penalty)(region)
    hidden = layers.GlobalAveragePooling2D()(hidden)
    shared = layers.Dense(16, name="head_fc", **penalty)
    hidden = shared(hidden)
    zeros = {"kernel_initializer": "zeros", **penalty}
    kind = layers.Dense(3, "softmax", name="class", **zeros)(hidden)
    box = layers.Dense(4, name="box", **zeros)(hidden)
    built = keras.Model(region, {"class": kind, "box": box})
    shared.kernel.assign(1e20 * shared.kernel)
    built.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        {"class": "sparse_categorical_crossentropy", "box": keras.losses.Huber()},
    )
    return built


def batch():
    """Return eight regions with class and box."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.random((8, 7, 7, 4)).astype("float32"),
        "y/class": rng.integers(0, 3, (8, 1)).astype("int32"),
        "y/box": rng.normal(size=(8, 4)).astype("float32"),
    }
