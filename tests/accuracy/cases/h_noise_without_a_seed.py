"""Healthy: noise from the system's entropy, of ordinary size: no two runs agree, all are fine."""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}
HELD_OUT = True


@keras.saving.register_keras_serializable("h_noise")
class Jitter(keras.layers.Layer):
    """Adds noise of a tenth."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.source = tf.random.Generator.from_non_deterministic_state()

    def call(self, x):
        """Return x with noise."""
        return x + 0.1 * self.source.normal(tf.shape(x))


def model():
    """Return a denoiser."""
    built = keras.Sequential(
        [
            keras.Input((8,)),
            Jitter(name="jitter"),
            keras.layers.Dense(8, "tanh", name="hidden"),
            keras.layers.Dense(8, name="clean"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "mse")
    return built


def batch():
    """Return twelve signals, to be told again."""
    x = np.random.default_rng(75).normal(size=(12, 8)).astype("float32")
    return {"x": x, "y": x}
