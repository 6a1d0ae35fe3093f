"""The scale of a Gaussian comes out of a ReLU and is exactly zero where the unit is not active.

Both terms of the likelihood fail then, log(0) and x / 0. From tensorflow/probability#474.
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
    "samples": [1, 6],
}


@keras.saving.register_keras_serializable("l13a")
class GaussianLikelihood(keras.losses.Loss):
    """Minus the log-likelihood; the prediction holds the mean and the scale."""

    def call(self, y_true, y_pred):
        """Return the loss of each sample."""
        mean, scale = y_pred[:, 0], y_pred[:, 1]
        return tf.math.log(scale) + 0.5 * tf.square((y_true[:, 0] - mean) / scale)


def model():
    """Return a regression of wind speed with its uncertainty."""
    inputs = keras.Input((4,), name="pressure")
    hidden = keras.layers.Dense(16, activation="tanh", name="hidden")(inputs)
    mean = keras.layers.Dense(1, name="mean")(hidden)
    scale = keras.layers.Dense(1, activation="relu", name="scale")(hidden)
    both = keras.layers.Concatenate(name="gaussian")([mean, scale])
    built = keras.Model(inputs, both)
    built.compile(keras.optimizers.Adam(1e-3), GaussianLikelihood())
    first = np.random.default_rng(1).normal(size=(4, 16)) * 0.2
    first[0] = 0.8
    built.get_layer("hidden").set_weights([first, np.zeros(16)])
    built.get_layer("scale").set_weights([np.full((16, 1), 0.1), np.full(1, 0.8)])
    return built


def batch():
    """Return eight stations; two of them drive the unit of the scale below zero."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 4)).astype("float32") * 0.4
    x[:, 0] = np.abs(x[:, 0])
    x[[1, 6], 0] = -2.0
    return {"x": x, "y": rng.normal(size=(8, 1)).astype("float32")}
