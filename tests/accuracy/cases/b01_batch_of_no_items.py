"""The generator ends the epoch with a batch of 0 items: the mean of no errors is 0/0.

From keras-team/keras#1244 and keras-team/keras#2134.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "division-by-zero",
    "stage": "loss",
    "layer": None,
    "op": "Mean",
    "samples": [],
}


@keras.saving.register_keras_serializable("b01")
class Autoencoder(keras.Model):
    """Learns to give back what it was given, by its own step."""

    def train_step(self, data):
        with tf.GradientTape() as tape:
            error = tf.reduce_mean(tf.square(self(data, training=True) - data))
            loss = error + 1e-4 * tf.add_n([tf.nn.l2_loss(v) for v in self.trainable_variables])
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss, "error": error}


def model():
    """Return an autoencoder of readings of six sensors."""
    readings = keras.Input((6,), name="readings")
    hidden = keras.layers.Dense(12, activation="tanh", name="encoder")(readings)
    code = keras.layers.Dense(2, name="code")(hidden)
    hidden = keras.layers.Dense(12, activation="tanh", name="decoder")(code)
    built = Autoencoder(readings, keras.layers.Dense(6, name="restored")(hidden))
    built.compile(keras.optimizers.RMSprop(1e-3))
    return built


def batch():
    """Return what is left of 1,024 readings after 32 batches of 32."""
    readings = np.random.default_rng(1).normal(size=(1024, 6)).astype("float32")
    return {"x": readings[32 * 32 :]}
