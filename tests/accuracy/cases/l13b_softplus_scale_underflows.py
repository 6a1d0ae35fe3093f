"""A scale of softplus(-60) is 1e-26, and its square, by which the loss divides, is zero.

From tensorflow/probability#751 and mllam/neural-lam#537.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "division-by-zero",
    "stage": "loss",
    "layer": None,
    "op": "RealDiv",
    "samples": [3],
}


@keras.saving.register_keras_serializable("l13b")
class Forecaster(keras.Model):
    """Forecasts the next value of a series and how sure it is of it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.memory = keras.layers.GRU(8, name="memory")
        self.mean = keras.layers.Dense(1, name="mean")
        self.spread = keras.layers.Dense(1, name="spread")

    def call(self, series):
        """Return mean and scale of the next value."""
        state = self.memory(series)
        return self.mean(state), tf.nn.softplus(self.spread(state))

    def train_step(self, data):
        """Take one step on the Gaussian likelihood."""
        series, following = keras.utils.unpack_x_y_sample_weight(data)[:2]
        with tf.GradientTape() as tape:
            mean, scale = self(series, training=True)
            variance = tf.square(scale)
            loss = tf.reduce_mean(tf.math.log(scale) + (following - mean) ** 2 / (2.0 * variance))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def model():
    """Return the forecaster; it has learnt to be the surer the higher the series stands."""
    built = Forecaster(name="forecaster")
    built(np.zeros((1, 40, 1), "float32"))
    built.compile(keras.optimizers.Adam(1e-3))
    sign = np.where(np.arange(8) % 2, 1.0, -1.0)
    kernel, recurrent, bias = built.memory.get_weights()
    kernel[:, 16:] = 2.0 * sign
    bias[:, :8] += 1.25
    built.memory.set_weights([kernel, recurrent * 0.1, bias])
    built.spread.set_weights([-8.0 * sign[:, None], np.zeros(1)])
    return built


def batch():
    """Return eight tides; in the fourth the sensor is stuck at high water."""
    rng = np.random.default_rng(0)
    phase = rng.uniform(0.0, 6.0, (8, 1)) + np.arange(40) * rng.uniform(1.3, 2.0, (8, 1))
    series = np.sin(phase)[..., None].astype("float32")
    series[3] = 1.0
    return {"x": series, "y": rng.normal(size=(8, 1)).astype("float32")}
