"""Raw pixels of 0 to 255, saved as bytes, in front of a Rescaling layer.

The control to y0ast/Variational-Autoencoder#5.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}

SIZE = 16


@keras.saving.register_keras_serializable("h_pixels_behind_rescaling")
class Sampling(keras.layers.Layer):
    """Draws the code and adds its divergence from the prior."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1)

    def call(self, inputs):
        mean, log_var = inputs
        noise = keras.random.normal(keras.ops.shape(mean), seed=self.seed_generator)
        kl = 1.0 + log_var - keras.ops.square(mean) - keras.ops.exp(log_var)
        self.add_loss(-0.5e-3 * keras.ops.mean(keras.ops.sum(kl, axis=-1)))
        return mean + keras.ops.exp(0.5 * log_var) * noise


def model():
    """Return a variational autoencoder of small photos."""
    photo = keras.Input((SIZE, SIZE, 3), name="photo")
    hidden = keras.layers.Rescaling(1 / 127.5, offset=-1, name="rescale")(photo)
    hidden = keras.layers.Conv2D(8, 4, 4, activation="relu", name="conv")(hidden)
    hidden = keras.layers.Flatten(name="flat")(hidden)
    mean = keras.layers.Dense(4, name="mean")(hidden)
    log_var = keras.layers.Dense(4, name="log_var")(hidden)
    code = Sampling(name="sampling")([mean, log_var])
    hidden = keras.layers.Dense(4 * 4 * 8, activation="relu", name="widen")(code)
    hidden = keras.layers.Reshape((4, 4, 8), name="map")(hidden)
    out = keras.layers.Conv2DTranspose(3, 4, 4, activation="sigmoid", name="restored")(hidden)
    built = keras.Model(photo, out)
    built.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    return built


def batch():
    """Return eight photos, and the same between 0 and 1 to be restored."""
    photos = np.random.default_rng(8).integers(0, 256, (8, SIZE, SIZE, 3)).astype("uint8")
    return {"x": photos, "y": photos.astype("float32") / 255.0}
