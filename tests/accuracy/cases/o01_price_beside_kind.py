"""A net predicts the price of a car, as it is, and its kind: SGD overshoots on the price.

The losses are given by the names of the outputs, in another order than the outputs. The unscaled
regression from keras-team/keras#3040.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "diverged", "cause": "unscaled-input", "stage": "data", "samples": []}

KINDS = 4


def model():
    """Return two heads, the price first."""
    car = keras.Input((6,), name="car")
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")(car)
    price = keras.layers.Dense(1, name="price")(hidden)
    kind = keras.layers.Dense(KINDS, activation="softmax", name="kind")(hidden)
    built = keras.Model(car, [price, kind])
    built.compile(
        keras.optimizers.SGD(0.01),
        loss={"price": "mse", "kind": "sparse_categorical_crossentropy"},
    )
    return built


def batch():
    """Return sixteen cars of about 20,000 each."""
    rng = np.random.default_rng(33)
    price = 2e4 + 5e3 * rng.normal(size=(16, 1))
    return {
        "x": rng.normal(size=(16, 6)).astype("float32"),
        "y/price": price.astype("float32"),
        "y/kind": rng.integers(0, KINDS, 16),
    }
