"""A VAE on scaled inputs has an unbounded log-variance, and one image is given one of 95.

The mechanism of AppliedDataSciencePartners/WorldModels#9 where the images are not to blame.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

EXPECTED = {
    "outcome": "diverged",
    "cause": "exp-overflow",
    "stage": "forward",
    "layer": "kl",
    "op": "Exp",
    "samples": [9],
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c18")
class Divergence(keras.layers.Layer):
    """Adds the KL divergence of the code to the loss, and passes its mean on."""

    def call(self, code):
        """Return the mean of the code."""
        mean, log_var = code
        self.add_loss(0.5 * tf.reduce_mean(mean**2 + tf.exp(log_var) - 1.0 - log_var))
        return mean


def model():
    """Return the VAE; its log-variance has learnt to answer to one pattern."""
    image = keras.Input((16,), name="image")
    mean = layers.Dense(3, name="mean")(image)
    log_var = layers.Dense(3, name="log_var")(image)
    code = Divergence(name="kl")([mean, log_var])
    built = keras.Model(image, layers.Dense(16, "sigmoid", name="decoder")(code))
    kernel = np.zeros((16, 3), "float32")
    kernel[5, 1] = 95.0
    built.get_layer("log_var").kernel.assign(kernel)
    built.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    return built


def batch():
    """Return twelve images in 0..1; only the tenth has the pattern in full."""
    rng = np.random.default_rng(28)
    image = rng.random((12, 16)).astype("float32")
    image[:, 5] *= 0.02
    image[9, 5] = 1.0
    return {"x": image, "y": image}
