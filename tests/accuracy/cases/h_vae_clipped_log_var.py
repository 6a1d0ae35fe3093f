"""Healthy: a VAE on images in 0..255 whose log-variance is clipped before exp.

The remedy of vanderschaarlab/synthcity#331.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {"outcome": "healthy"}


@keras.saving.register_keras_serializable("h_vae")
class ClippedSampling(keras.layers.Layer):
    """Draws the code from a posterior whose log-variance is bounded."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator(7)

    def call(self, inputs):
        """Return a code, and add the divergence from the prior to the loss."""
        mean, log_var = inputs
        log_var = ops.clip(log_var, -8.0, 4.0)
        noise = keras.random.normal(ops.shape(mean), seed=self.seed)
        divergence = -0.5 * ops.sum(1.0 + log_var - mean**2 - ops.exp(log_var), axis=-1)
        self.add_loss(1e-3 * ops.mean(divergence))
        return mean + ops.exp(0.5 * log_var) * noise


def model():
    """Return a VAE for frames of 8 x 8 pixels."""
    frame = keras.Input((8, 8, 1), name="frame")
    hidden = keras.layers.Dense(32, activation="relu", name="encoder")(
        keras.layers.Flatten(name="flat")(frame)
    )
    moments = [keras.layers.Dense(4, name=name)(hidden) for name in ("mean", "log_var")]
    hidden = keras.layers.Dense(32, "relu", name="decoder")(ClippedSampling(name="code")(moments))
    pixels = keras.layers.Dense(64, activation="sigmoid", name="pixels")(hidden)
    built = keras.Model(frame, keras.layers.Reshape((8, 8, 1), name="image")(pixels))
    built.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    return built


def batch():
    """Return eight frames as they were read from disk."""
    frames = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1)).astype("float32")
    return {"x": frames, "y": frames / 255.0}
