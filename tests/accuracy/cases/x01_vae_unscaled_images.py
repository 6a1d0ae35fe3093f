"""A VAE is fed images in 0..255: its log-variance comes out in the hundreds, and exp overflows.

From AppliedDataSciencePartners/WorldModels#9 and y0ast/Variational-Autoencoder#5.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "unscaled-input",
    "stage": "data",
    "layer": "sampling",
    "op": "Exp",
    "samples": [],
}


@keras.saving.register_keras_serializable("x01")
class Sampling(keras.layers.Layer):
    """Draws the code, and adds the divergence from the prior to the loss."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator(7)

    def call(self, inputs):
        """Return a code drawn from the posterior."""
        mean, log_var = inputs
        noise = keras.random.normal(ops.shape(mean), seed=self.seed)
        code = mean + ops.exp(0.5 * log_var) * noise
        divergence = -0.5 * ops.sum(1.0 + log_var - mean**2 - ops.exp(log_var), axis=-1)
        self.add_loss(1e-3 * ops.mean(divergence))
        return code


def model():
    """Return a VAE for frames of 8 x 8 pixels."""
    frame = keras.Input((8, 8, 1), name="frame")
    hidden = keras.layers.Flatten(name="flat")(frame)
    hidden = keras.layers.Dense(32, activation="relu", name="encoder")(hidden)
    mean = keras.layers.Dense(4, name="mean")(hidden)
    log_var = keras.layers.Dense(4, name="log_var")(hidden)
    code = Sampling(name="sampling")([mean, log_var])
    hidden = keras.layers.Dense(32, activation="relu", name="decoder")(code)
    pixels = keras.layers.Dense(64, activation="sigmoid", name="pixels")(hidden)
    built = keras.Model(frame, keras.layers.Reshape((8, 8, 1), name="image")(pixels))
    built.compile(keras.optimizers.Adam(1e-3), "mse")
    return built


def batch():
    """Return eight frames as they were read from disk."""
    frames = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1)).astype("float32")
    return {"x": frames, "y": frames / 255.0}
