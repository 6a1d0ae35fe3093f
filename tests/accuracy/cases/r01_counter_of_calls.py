"""A layer counts its calls in a Python attribute and divides by how far it is into its cycle: by 0.

From keras-team/tf-keras#60 (a state that each call moves on and no seed puts back).
"""

import keras
import numpy as np
from keras import layers

EXPECTED = {
    "outcome": "diverged",
    "cause": "not-deterministic",
    "stage": "execution",
    "layer": "cycle",
    "op": "RealDiv",
}

CYCLE = 3


@keras.saving.register_keras_serializable("r01_cycle")
class CyclicTemperature(layers.Layer):
    """Divides logits by a temperature that goes round from call to call."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.calls = 0

    def call(self, inputs, training=None):
        """Return the logits at the temperature of this call."""
        if not training:
            return inputs
        self.calls += 1
        return inputs / float(self.calls % CYCLE)


def model():
    """Return a classifier of three features."""
    features = keras.Input((3,), name="features")
    logits = layers.Dense(4, name="logits")(features)
    built = keras.Model(features, CyclicTemperature(name="cycle")(logits))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # In a graph the number of the call that was traced would stand for ever.
    built.compile("adam", loss, run_eagerly=True)
    return built


def batch():
    """Return sixteen rows."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(16, 3)).astype("float32"),
        "y": rng.integers(0, 4, 16).astype("int32"),
    }
