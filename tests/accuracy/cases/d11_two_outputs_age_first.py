"""A face net learns age and mood; one mood is class 4 of 0 to 3, and the ages hold a 4 as well.

From tensorflow/tensorflow#8484 and tensorflow/tensorflow#57173.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-labels",
    "stage": "data",
    "layer": None,
    "op": "SparseSoftmaxCrossEntropyWithLogits",
    "samples": [3],
}

SIZE, MOODS = 10, 4


def model():
    """Return two heads on one backbone; only the second one is a classifier."""
    face = keras.Input((SIZE, SIZE, 1), name="face")
    hidden = keras.layers.Conv2D(6, 3, 2, activation="relu", name="conv")(face)
    hidden = keras.layers.Flatten(name="flat")(hidden)
    hidden = keras.layers.Dense(12, activation="relu", name="shared")(hidden)
    age = keras.layers.Dense(1, activation="softplus", name="age")(hidden)
    mood = keras.layers.Dense(MOODS, name="mood")(hidden)
    built = keras.Model(face, {"age": age, "mood": mood})
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile("adam", loss={"age": "mae", "mood": entropy})
    return built


def batch():
    """Return sixteen faces, among them that of a child of four."""
    rng = np.random.default_rng(31)
    moods, ages = rng.integers(0, MOODS, 16), rng.integers(2, 90, (16, 1))
    moods[3] = MOODS
    ages[9] = 4
    return {
        "x": rng.random((16, SIZE, SIZE, 1)).astype("float32"),
        "y/age": ages.astype("float32"),
        "y/mood": moods,
    }
