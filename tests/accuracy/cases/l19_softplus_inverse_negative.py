"""A flow inverts a softplus by log(expm1(y)), and the layer before it also gives negative y.

From tensorflow/probability#1377.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "log-of-zero",
    "stage": "forward",
    "layer": "flow/positive",
    "op": "Log",
    "samples": [3, 7],
}


@keras.saving.register_keras_serializable("l19")
class SoftplusInverse(keras.layers.Layer):
    """Maps positive values to the whole line."""

    def call(self, values):
        """Return the inverse, and the log of its Jacobian."""
        grown = tf.math.expm1(values)
        return tf.math.log(grown), tf.reduce_sum(values - tf.math.log(tf.abs(grown)), axis=-1)


@keras.saving.register_keras_serializable("l19")
class Flow(keras.layers.Layer):
    """An affine map conditioned on the covariates, then the softplus read backwards."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.shift = keras.layers.Dense(units, name="shift")
        self.positive = SoftplusInverse(name="positive")

    def build(self, shapes):
        """Build the map on the covariates."""
        self.shift.build(shapes[1])

    def call(self, inputs):
        """Return the latent values; their negative log-likelihood is the layer's own loss."""
        values, covariates = inputs
        latent, log_jacobian = self.positive(values + self.shift(covariates))
        self.add_loss(tf.reduce_mean(0.5 * tf.reduce_sum(latent**2, axis=-1) - log_jacobian))
        return latent

    def get_config(self):
        """Return what the layer is made of."""
        return {**super().get_config(), "units": self.units}


def model():
    """Return a density model of durations given covariates, trained by maximum likelihood."""
    durations = keras.Input((3,), name="durations")
    covariates = keras.Input((4,), name="covariates")
    hidden = keras.layers.Dense(8, activation="tanh", name="context")(covariates)
    latent = Flow(3, name="flow")([durations, hidden])
    built = keras.Model({"durations": durations, "covariates": covariates}, latent)
    built.compile(keras.optimizers.Adam(1e-3))
    kernel, bias = built.get_layer("flow").shift.get_weights()
    built.get_layer("flow").shift.set_weights([kernel * 0.1, bias - 0.4])
    return built


def batch():
    """Return ten patients; two have had a stay of hardly an hour."""
    rng = np.random.default_rng(0)
    durations = rng.gamma(4.0, 0.5, (10, 3)).astype("float32") + 0.8
    durations[3, 1] = durations[7, 0] = 0.05
    return {
        "x/durations": durations,
        "x/covariates": rng.normal(size=(10, 4)).astype("float32"),
    }
