"""A weighted mean divides by the sum of the weights, and every sample of the batch has weight 0.

The family of keras-team/keras#21908.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-sample-weight",
    "stage": "data",
    "layer": None,
    "op": "RealDiv",
    "samples": [],
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c08")
class WeightedRegression(keras.Model):
    """Learns from surveys, each of which stands for a number of people."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(12, "relu", name="hidden")
        self.income = keras.layers.Dense(1, name="income")

    def call(self, answers):
        """Return the income."""
        return self.income(self.hidden(answers))

    def train_step(self, data):
        """Take a step on the weighted mean of the squared errors."""
        x, y, weight = data
        with tf.GradientTape() as tape:
            errors = tf.reduce_mean((self(x, training=True) - y) ** 2, axis=-1)
            loss = tf.reduce_sum(weight * errors) / tf.reduce_sum(weight)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def model():
    """Return the regression."""
    built = WeightedRegression(name="survey")
    built(np.zeros((1, 5), "float32"))
    built.compile(keras.optimizers.Adam(1e-3))
    return built


def batch():
    """Return eight surveys of a region that nobody weighted."""
    rng = np.random.default_rng(18)
    return {
        "x": rng.normal(size=(8, 5)).astype("float32"),
        "y": rng.normal(size=(8, 1)).astype("float32"),
        "sample_weight": np.zeros(8, "float32"),
    }
