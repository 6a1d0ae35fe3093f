"""The likelihood of an image is formed as the product of its pixels' densities, which underflows.

The log is taken of the product, not of the densities. From tensorflow/probability#233.
"""

import math

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "log-of-zero",
    "stage": "loss",
    "layer": None,
    "op": "Log",
    "samples": [],
}

SCALE = 0.1


@tf.function
def log_likelihood(images, means):
    """Return the log-likelihood of each image under Gaussian pixels."""
    deviation = (images - means) / SCALE
    density = tf.exp(-0.5 * deviation**2) / (SCALE * math.sqrt(2.0 * math.pi))
    return tf.math.log(tf.reduce_prod(density, axis=[1, 2, 3]))


@keras.saving.register_keras_serializable("l11")
def negative_log_likelihood(y_true, y_pred):
    """Return the loss of each image."""
    return -log_likelihood(y_true, y_pred)


def model():
    """Return a convolutional auto-encoder of 12 x 12 images."""
    image = keras.Input((12, 12, 1), name="image")
    code = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="down")(
        image
    )
    code = keras.layers.Dense(8, name="code")(keras.layers.Flatten()(code))
    grid = keras.layers.Reshape((6, 6, 4))(keras.layers.Dense(144, "relu", name="unpack")(code))
    made = keras.layers.Conv2DTranspose(
        1, 3, strides=2, padding="same", activation="sigmoid", name="pixels"
    )(grid)
    built = keras.Model(image, made)
    built.compile(keras.optimizers.RMSprop(1e-3), negative_log_likelihood)
    return built


def batch():
    """Return eight images in [0, 1]."""
    images = np.random.default_rng(0).random((8, 12, 12, 1)).astype("float32")
    return {"x": images, "y": images}
