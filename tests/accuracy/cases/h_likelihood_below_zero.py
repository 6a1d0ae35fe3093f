"""Healthy: the negative log-likelihood of a density is below zero and falls: no bound is broken."""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}
HELD_OUT = True

ARGUMENTS = ["--steps", "40"]


@keras.saving.register_keras_serializable("h_density")
def gaussian(truth, prediction):
    """Return the negative log-likelihood of a Gaussian with a bounded scale."""
    mean, scale = prediction[:, :1], tf.nn.softplus(prediction[:, 1:]) + 1e-3
    return tf.math.log(scale) + 0.5 * ((truth - mean) / scale) ** 2


def model():
    """Return a forecaster of mean and scale."""
    built = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(16, "tanh", name="hidden"),
            keras.layers.Dense(2, name="mean_and_scale"),
        ]
    )
    built.compile(keras.optimizers.Adam(0.01), gaussian)
    return built


def batch():
    """Return sixty-four samples almost without noise."""
    rng = np.random.default_rng(76)
    x = rng.normal(size=(64, 3)).astype("float32")
    return {"x": x, "y": (0.1 * x[:, :1] + 1e-3 * rng.normal(size=(64, 1))).astype("float32")}
