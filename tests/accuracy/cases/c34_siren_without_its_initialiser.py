"""A SIREN of 32 layers, omega 30, is drawn by Glorot's rule: all is bounded but the gradient.

Sine keeps every activation in -1..1, and every layer multiplies the gradient by about 20.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "exploding-gradient",
    "stage": "backward",
    "layer": "siren_02",
    "op": "Mul",
    "samples": [],
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c34")
def sine(x):
    """Return sin(30 x)."""
    return keras.ops.sin(30.0 * x)


def model():
    """Return an implicit picture: from a place to its grey value."""
    built = keras.Sequential([keras.Input((2,))])
    for number in range(32):
        built.add(keras.layers.Dense(24, sine, name=f"siren_{number:02}"))
    built.add(keras.layers.Dense(1, name="grey"))
    built.compile(keras.optimizers.Adam(1e-4), "mse")
    return built


def batch():
    """Return thirty-two pixels."""
    rng = np.random.default_rng(46)
    return {
        "x": rng.uniform(-1, 1, (32, 2)).astype("float32"),
        "y": rng.uniform(-1, 1, (32, 1)).astype("float32"),
    }
