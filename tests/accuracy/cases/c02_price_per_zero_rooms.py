"""The table's price per room is infinite for a flat that is listed with zero rooms.

The family of keras-team/keras#1880: a loader that divides.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "diverged", "cause": "bad-input", "stage": "data", "samples": [13]}
HELD_OUT = True


def model():
    """Return a tabular net with a batch normalisation in front."""
    built = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.BatchNormalization(name="standardise"),
            keras.layers.Dense(24, "gelu", name="hidden"),
            keras.layers.Dense(1, name="days_on_market"),
        ]
    )
    built.compile(keras.optimizers.AdamW(1e-3), "huber")
    return built


def batch():
    """Return twenty flats: price, rooms, price per room, floor, age."""
    rng = np.random.default_rng(12)
    price = rng.uniform(1, 9, 20)
    rooms = rng.integers(1, 6, 20).astype(float)
    rooms[13] = 0
    with np.errstate(divide="ignore"):
        per_room = price / rooms
    table = np.stack([price, rooms, per_room, rng.uniform(0, 5, 20), rng.uniform(0, 1, 20)], 1)
    return {"x": table.astype("float32"), "y": rng.normal(size=(20, 1)).astype("float32")}
