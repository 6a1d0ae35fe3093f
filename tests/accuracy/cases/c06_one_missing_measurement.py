"""Three properties of a molecule are learnt, and one was never measured: its target is NaN.

The family of keras-team/keras#9549, without a mask.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "diverged", "cause": "bad-labels", "stage": "data", "samples": [8]}
HELD_OUT = True


def model():
    """Return a net with one output for each property."""
    fingerprint = keras.Input((16,), name="fingerprint")
    hidden = keras.layers.Dense(24, "relu", name="hidden")(fingerprint)
    outputs = {
        name: keras.layers.Dense(1, name=name)(hidden) for name in ("gap", "dipole", "energy")
    }
    built = keras.Model(fingerprint, outputs)
    built.compile(keras.optimizers.Adam(1e-3), dict.fromkeys(outputs, "mae"))
    return built


def batch():
    """Return fourteen molecules; the dipole of the ninth is unknown."""
    rng = np.random.default_rng(16)
    targets = {f"y/{k}": rng.normal(size=(14, 1)).astype("float32") for k in ("gap", "energy")}
    dipole = rng.normal(size=(14, 1)).astype("float32")
    dipole[8] = np.nan
    return {"x": rng.integers(0, 2, (14, 16)).astype("float32"), "y/dipole": dipole, **targets}
