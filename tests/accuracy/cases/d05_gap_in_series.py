"""A public time series has gaps: three readings of one window are NaN, and so is every loss.

From circleAhn/TESLA-tf#1.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {"outcome": "diverged", "cause": "bad-input", "stage": "data", "samples": [5]}

STEPS, SENSORS, HORIZON = 24, 3, 4

WEIGHTS_ONLY = True


class Forecaster(keras.Model):
    """A transformer block over the window, and the next readings of the first sensor."""

    def __init__(self):
        super().__init__(name="forecaster")
        self.embed = keras.layers.Dense(12, name="embed")
        self.attend = keras.layers.MultiHeadAttention(2, 6, name="attend")
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.feed = keras.layers.Dense(12, activation="gelu", name="feed")
        self.head = keras.layers.Dense(HORIZON, name="head")

    def call(self, window):
        angles = ops.arange(STEPS, dtype="float32")[:, None] / 10.0 ** ops.arange(0.0, 2.0, 1 / 6)
        hidden = self.embed(window) + ops.sin(angles)
        hidden = self.norm(hidden + self.attend(hidden, hidden))
        hidden = hidden + self.feed(hidden)
        return self.head(ops.mean(hidden, axis=1))


def model():
    built = Forecaster()
    built(np.zeros((1, STEPS, SENSORS), "float32"))
    built.compile(keras.optimizers.Adam(1e-3), "mae")
    return built


def batch():
    """Return eight windows cut out of one series."""
    rng = np.random.default_rng(5)
    time = np.arange(240)[:, None] / np.array([[24.0, 12.0, 7.0]])
    series = (np.sin(2 * np.pi * time) + 0.1 * rng.normal(size=time.shape)).astype("float32")
    starts = np.arange(8) * (STEPS + 1)
    windows = np.stack([series[start : start + STEPS] for start in starts])
    after = np.stack([series[start + STEPS : start + STEPS + HORIZON, 0] for start in starts])
    windows[5, 11:14, 1] = np.nan
    return {"x": windows, "y": after}
