"""A weight-normalised gate starts from a zero kernel, as gates do: v / |v| is 0 / 0.

From google/flax#1671 and openai/weightnorm#4.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "division-by-zero",
    "stage": "forward",
    "layer": "gate",
    "op": "RealDiv",
    "samples": [],
}


@keras.saving.register_keras_serializable("n07")
class WeightNormDense(keras.layers.Layer):
    """Dense layer whose kernel is a direction times a length."""

    def __init__(self, units, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.initializer = keras.initializers.get(kernel_initializer)

    def build(self, shape):
        """Make direction, length and bias."""
        self.direction = self.add_weight(
            shape=(shape[-1], self.units), initializer=self.initializer, name="direction"
        )
        self.length = self.add_weight(shape=(self.units,), initializer="ones", name="length")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def call(self, inputs):
        """Return the affine map."""
        kernel = self.length * self.direction / ops.norm(self.direction, axis=0)
        return ops.matmul(inputs, kernel) + self.bias

    def get_config(self):
        """Return what the layer is made of."""
        initializer = keras.initializers.serialize(self.initializer)
        config = {"units": self.units, "kernel_initializer": initializer}
        return {**super().get_config(), **config}


def model():
    """Return a residual block whose gate is closed at first."""
    inputs = keras.Input((10,), name="features")
    hidden = WeightNormDense(16, name="trunk")(inputs)
    hidden = keras.layers.Activation("gelu", name="gelu")(hidden)
    gate = keras.layers.Activation("sigmoid")(WeightNormDense(16, "zeros", name="gate")(hidden))
    mixed = keras.layers.Multiply(name="gated")([hidden, gate])
    value = keras.layers.Dense(1, name="value")(keras.layers.Add(name="sum")([hidden, mixed]))
    built = keras.Model(inputs, value)
    built.compile(keras.optimizers.AdamW(1e-3), "huber")
    return built


def batch():
    """Return sixteen rows of ordinary features."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(16, 10)).astype("float32"),
        "y": rng.normal(size=(16, 1)).astype("float32"),
    }
