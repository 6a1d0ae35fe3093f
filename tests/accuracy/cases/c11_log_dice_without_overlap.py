"""A segmentation net minimises -log(Dice), and one mask has no overlap with what it predicts.

The family of the Dice losses without a smoothing term; -log(0) as in yanghu819/Graph-MLP#1.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

EXPECTED = {
    "outcome": "diverged",
    "cause": "log-of-zero",
    "stage": "loss",
    "layer": None,
    "op": "Log",
    "samples": [2],
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c11")
def log_dice(truth, prediction):
    """Return -log(Dice) of every image."""
    overlap = 2.0 * tf.reduce_sum(truth * prediction, axis=(1, 2, 3))
    size = tf.reduce_sum(truth, axis=(1, 2, 3)) + tf.reduce_sum(prediction, axis=(1, 2, 3))
    return -tf.math.log(overlap / size)


def model():
    """Return a small U-Net that ends in a hard sigmoid."""
    image = keras.Input((12, 12, 1), name="image")
    skip = layers.Conv2D(6, 3, padding="same", activation="relu", name="enc")(image)
    deep = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="deep")(skip)
    up = layers.Conv2DTranspose(6, 2, strides=2, activation="relu", name="dec")(deep)
    both = layers.Concatenate()([skip, up])
    mask = layers.Conv2D(1, 1, activation="hard_sigmoid", name="mask")(both)
    built = keras.Model(image, mask)
    built.compile(keras.optimizers.Adam(1e-4), log_dice)
    return built


def batch():
    """Return five images with masks; no pixel is marked in the third."""
    rng = np.random.default_rng(21)
    image = rng.random((5, 12, 12, 1)).astype("float32")
    mask = (image > 0.5).astype("float32")
    mask[2] = 0
    return {"x": image, "y": mask}
