"""Counts go through Anscombe's root, 2 sqrt(x), behind a ReLU: no derivative at the zero it gives.

The family of tensorflow/tensorflow#4914.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "gradient-singularity",
    "stage": "backward",
    "layer": "anscombe",
    "op": "Sqrt",
    "samples": [1],
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c38")
class Anscombe(keras.layers.Layer):
    """Makes the variance of counts about 1."""

    def call(self, counts):
        """Return twice the root."""
        return 2.0 * tf.sqrt(counts)


def model():
    """Return a net for photon counts; its first layer is trained and never below zero but once."""
    built = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8, "relu", name="gain", kernel_initializer="identity"),
            Anscombe(name="anscombe"),
            keras.layers.Dense(1, name="flux"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "mse")
    return built


def batch():
    """Return ten exposures; in the second a reading lies below the dark level."""
    rng = np.random.default_rng(50)
    counts = rng.uniform(1, 9, (10, 8)).astype("float32")
    counts[1, 6] = -0.4
    return {"x": counts, "y": rng.uniform(1, 2, (10, 1)).astype("float32")}
