"""Healthy: derivatives of abs and relu at exactly zero: blank inputs and a residual of zero."""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}


@keras.saving.register_keras_serializable("h_abs")
class SparseAutoencoder(keras.Model):
    """Auto-encoder with an L1 penalty on its code, trained by a step of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.code = keras.layers.Dense(6, activation="relu", name="code")
        self.made = keras.layers.Dense(
            10, name="made", kernel_regularizer=keras.regularizers.L1(1e-4)
        )

    def call(self, inputs):
        """Return the reconstruction."""
        return self.made(self.code(inputs))

    def train_step(self, data):
        """Take one step on the absolute error and the penalty."""
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        with tf.GradientTape() as tape:
            code = self.code(inputs)
            error = tf.abs(self.made(code) - inputs) + tf.maximum(-inputs, 0.0)
            loss = tf.reduce_mean(error) + 1e-3 * tf.reduce_sum(tf.abs(code)) + sum(self.losses)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def model():
    """Return the auto-encoder, half of whose decoder is zero."""
    built = SparseAutoencoder(name="sparse")
    built(np.zeros((1, 10), "float32"))
    built.compile(keras.optimizers.Adam(1e-3))
    kernel, bias = built.made.get_weights()
    kernel[::2] = 0.0
    built.made.set_weights([kernel, bias])
    return built


def batch():
    """Return eight rows, half of them zero."""
    rows = np.random.default_rng(0).normal(size=(8, 10)).astype("float32")
    rows[::2] = 0.0
    return {"x": rows}
