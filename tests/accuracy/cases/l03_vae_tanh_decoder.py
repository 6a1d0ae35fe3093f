"""The decoder of a VAE ends in tanh, and the reconstruction loss takes the log of its output.

From pkmital/tensorflow_tutorials#23.
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
    "samples": [],
}


@keras.saving.register_keras_serializable("l03")
class Autoencoder(keras.Model):
    """A variational auto-encoder of binary images, trained by a step of its own."""

    def __init__(self, latent=2, **kwargs):
        super().__init__(**kwargs)
        self.latent = latent
        self.encoder = keras.layers.Dense(12, activation="relu", name="encoder")
        self.moments = keras.layers.Dense(2 * latent, name="moments")
        self.decoder = keras.Sequential(
            [
                keras.layers.Dense(12, activation="relu", name="hidden"),
                keras.layers.Dense(16, activation="tanh", name="pixels"),
            ],
            name="decoder",
        )
        self.seed = keras.random.SeedGenerator(3)

    def call(self, images):
        """Return the reconstruction, and mean and log-variance of the code."""
        mean, log_var = tf.split(self.moments(self.encoder(images)), 2, axis=-1)
        noise = keras.random.normal(tf.shape(mean), seed=self.seed)
        return self.decoder(mean + tf.exp(0.5 * log_var) * noise), mean, log_var

    def train_step(self, data):
        """Maximise the evidence lower bound."""
        images = keras.utils.unpack_x_y_sample_weight(data)[0]
        with tf.GradientTape() as tape:
            made, mean, log_var = self(images, training=True)
            fit = images * tf.math.log(made + 1e-10)
            fit += (1.0 - images) * tf.math.log(1.0 - made + 1e-10)
            prior = -0.5 * tf.reduce_sum(1.0 + log_var - mean**2 - tf.exp(log_var), axis=-1)
            loss = tf.reduce_mean(prior - tf.reduce_sum(fit, axis=-1))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}

    def get_config(self):
        """Return what the model is made of."""
        return {**super().get_config(), "latent": self.latent}


def model():
    """Return the auto-encoder, built."""
    built = Autoencoder(name="vae")
    built(np.zeros((1, 16), "float32"))
    built.compile(keras.optimizers.Adam(1e-3))
    return built


def batch():
    """Return eight images of 4 x 4 black or white pixels."""
    rng = np.random.default_rng(0)
    return {"x": (rng.random((8, 16)) < 0.4).astype("float32")}
