"""A rate is divided twice by tiny units of time; XLA divides once by their product, which is 0.

The family of ROCm/legacy-rocm-build#6379.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "execution-mismatch",
    "stage": "execution",
    "layer": "reduced",
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c44")
class Reduced(keras.layers.Layer):
    """Makes rates of a decay free of units."""

    def call(self, rate):
        """Return the log of the rate, over a unit of each of the two times."""
        return keras.ops.log(rate / 1e-23 / 1e-23)


def model():
    """Return a regression of life times, compiled by XLA."""
    built = keras.Sequential(
        [
            keras.Input((2,)),
            Reduced(name="reduced"),
            keras.layers.Dense(12, "tanh", name="hidden"),
            keras.layers.Dense(1, name="life_time"),
        ]
    )
    built.compile(keras.optimizers.SGD(1e-3), "mse", jit_compile=True)
    return built


def batch():
    """Return twelve nuclei with two rates each, in 1/s^2."""
    rng = np.random.default_rng(56)
    return {
        "x": rng.uniform(2e-38, 9e-38, (12, 2)).astype("float32"),
        "y": rng.normal(size=(12, 1)).astype("float32"),
    }
