"""A second moment of Adam has overflowed in an earlier spike: infinity less infinity is NaN.

The family of tensorflow/tensorflow#74879.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "corrupt-optimizer-state",
    "stage": "checkpoint",
    "samples": [],
}
HELD_OUT = True


def model():
    """Return a forecaster after two steps, and three cells of a slot that are infinite."""
    built = keras.Sequential(
        [
            keras.Input((14, 2)),
            keras.layers.GRU(10, name="gru"),
            keras.layers.Dense(1, name="tomorrow"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "mse")
    data = batch()
    for _ in range(2):
        built.train_on_batch(data["x"], data["y"])
    for slot in built.optimizer.variables:
        if "tomorrow_kernel_velocity" in slot.path:
            broken = np.array(slot.value)
            broken[2:5] = np.inf
            slot.assign(broken)
    return built


def batch():
    """Return ten fortnights of two series."""
    rng = np.random.default_rng(41)
    series = rng.normal(size=(10, 15, 2)).astype("float32")
    return {"x": series[:, :-1], "y": series[:, -1, :1]}
