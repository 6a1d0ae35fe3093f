"""Healthy: a Dice loss by divide_no_nan over masks that are empty, and predicted to be empty.

The remedy of YunYang1994/tensorflow-yolov3#225.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}
HELD_OUT = True


@keras.saving.register_keras_serializable("h_dice")
def dice(truth, prediction):
    """Return 1 - Dice of every mask."""
    overlap = 2.0 * tf.reduce_sum(truth * prediction, axis=(1, 2, 3))
    size = tf.reduce_sum(truth, axis=(1, 2, 3)) + tf.reduce_sum(prediction, axis=(1, 2, 3))
    return 1.0 - tf.math.divide_no_nan(overlap, size)


def model():
    """Return a net that ends in a ReLU6 and has no bias."""
    built = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name="conv"),
            keras.layers.Conv2D(1, 1, use_bias=False, activation="relu6", name="mask"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), dice)
    return built


def batch():
    """Return six pictures; two are black and have an empty mask."""
    image = np.random.default_rng(63).random((6, 8, 8, 1)).astype("float32")
    image[[1, 4]] = 0
    return {"x": image, "y": (image > 0.6).astype("float32")}
