"""YOLO's first loss compares square roots of widths, and the linear head predicts a negative one.

The family of the box losses; an output without a constraint, as in tensorflow/probability#474.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

EXPECTED = {
    "outcome": "diverged",
    "cause": "invalid-domain",
    "stage": "loss",
    "layer": None,
    "op": "Sqrt",
    "samples": [3],
}


@keras.saving.register_keras_serializable("c16")
def box_loss(truth, prediction):
    """Return the error of the centres and of the roots of width and height."""
    centres = tf.reduce_sum((truth[:, :2] - prediction[:, :2]) ** 2, axis=-1)
    sizes = tf.reduce_sum((tf.sqrt(truth[:, 2:]) - tf.sqrt(prediction[:, 2:])) ** 2, axis=-1)
    return centres + sizes


def model():
    """Return a detector of one object; it was trained on pictures brighter than the fourth."""
    built = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.GlobalAveragePooling2D(name="light"),
            layers.Dense(4, name="box", kernel_initializer="ones"),
        ]
    )
    built.layers[-1].bias.assign([0.0, 0.0, -0.2, -0.2])
    built.compile(keras.optimizers.Adam(1e-4), box_loss)
    return built


def batch():
    """Return six pictures with their boxes; the fourth picture was taken at night."""
    rng = np.random.default_rng(26)
    light = rng.uniform(0.6, 1.0, (6, 1, 1, 1))
    light[3] = 0.1
    picture = light * rng.uniform(0.8, 1.0, (6, 8, 8, 1))
    return {"x": picture.astype("float32"), "y": rng.uniform(0.2, 0.8, (6, 4)).astype("float32")}
