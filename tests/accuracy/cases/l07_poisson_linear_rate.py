"""Counts are fitted with the Poisson loss on a linear output, and the rate turns out negative.

From keras-team/keras#590 and rstudio/keras3#1280.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "loss-activation-mismatch",
    "stage": "loss",
    "layer": None,
    "op": "Log",
    "samples": [0, 1, 3, 5, 6, 11, 12, 13],
}


def model():
    """Return a model of bicycle rentals from the hour of the day and the weather."""
    hour = keras.Input((1,), dtype="int32", name="hour")
    weather = keras.Input((4,), name="weather")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(24, 4, name="hours")(hour))
    both = keras.layers.Concatenate()([embedded, weather])
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")(both)
    rentals = keras.layers.Dense(1, name="rentals")(hidden)
    built = keras.Model({"hour": hour, "weather": weather}, rentals)
    built.compile(keras.optimizers.Adam(1e-3), "poisson", metrics=["mae"])
    return built


def batch():
    """Return sixteen hours with their counts."""
    rng = np.random.default_rng(0)
    return {
        "hour": rng.integers(0, 24, (16, 1)).astype("int32"),
        "weather": rng.normal(size=(16, 4)).astype("float32"),
        "y": rng.poisson(3.0, (16, 1)).astype("float32"),
    }
