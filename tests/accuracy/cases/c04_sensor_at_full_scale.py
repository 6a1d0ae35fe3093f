"""One reading of a sensor is its fault code, 3e20, among readings of order 1: its square overflows.

An outlier in the manner of vanvalenlab/deepcell-tf#445.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "unscaled-input",
    "stage": "data",
    "layer": None,
    "op": "Square",
    "samples": [6],
}
HELD_OUT = True


def model():
    """Return an autoencoder of windows of vibration."""
    built = keras.Sequential(
        [
            keras.Input((24,)),
            keras.layers.Dense(8, "tanh", name="code"),
            keras.layers.Dense(24, name="again"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "mse")
    return built


def batch():
    """Return twelve windows, to be told again; in the seventh, one reading is a fault code."""
    rng = np.random.default_rng(14)
    windows = rng.normal(size=(12, 24)).astype("float32")
    windows[6, 17] = 3e20
    return {"x": windows, "y": windows}
