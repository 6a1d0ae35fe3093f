"""A net predicts mean and variance, the variance by a linear unit; the likelihood takes its log.

The family of mllam/neural-lam#537 and tensorflow/probability#474.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "loss-activation-mismatch",
    "stage": "loss",
    "layer": None,
    "op": "Log",
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c22")
def gaussian(truth, prediction):
    """Return the negative log-likelihood of a Gaussian."""
    mean, variance = prediction[:, :1], prediction[:, 1:]
    return 0.5 * (tf.math.log(variance) + (truth - mean) ** 2 / variance)


def model():
    """Return the net with its two outputs side by side."""
    built = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(24, "tanh", name="hidden"),
            keras.layers.Dense(2, name="mean_and_variance"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), gaussian)
    return built


def batch():
    """Return twenty-four samples."""
    rng = np.random.default_rng(34)
    return {
        "x": rng.normal(size=(24, 6)).astype("float32"),
        "y": rng.normal(size=(24, 1)).astype("float32"),
    }
