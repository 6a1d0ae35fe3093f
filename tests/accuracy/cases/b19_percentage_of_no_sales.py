"""An own percentage error divides by the sales of the day, and on one day there were none.

From keras-team/keras#333 and keras-team/keras#2908.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "division-by-zero",
    "stage": "loss",
    "layer": None,
    "op": "RealDiv",
    "samples": [6],
}


@keras.saving.register_keras_serializable("b19")
def percentage_error(y_true, y_pred):
    """Return the error as a percentage of what was sold."""
    return 100.0 * ops.mean(ops.abs((y_true - y_pred) / y_true), axis=-1)


def model():
    """Return a recurrent forecast of the next three days, with what is known of the shop."""
    past = keras.Input((14, 2), name="past")
    shop = keras.Input((4,), name="shop")
    hidden = keras.layers.LSTM(8, name="lstm")(past)
    hidden = keras.layers.Concatenate(name="both")([hidden, shop])
    hidden = keras.layers.Dense(12, activation="relu", name="hidden")(hidden)
    built = keras.Model([past, shop], keras.layers.Dense(3, name="sales")(hidden))
    built.compile(keras.optimizers.Adam(1e-3), percentage_error)
    return built


def batch():
    """Return sixteen shops with what they sold; one was closed on the second day."""
    rng = np.random.default_rng(19)
    sales = rng.uniform(0.5, 2.0, (16, 3)).astype("float32")
    sales[6, 1] = 0.0
    return {
        "x/past": rng.normal(size=(16, 14, 2)).astype("float32"),
        "x/shop": rng.normal(size=(16, 4)).astype("float32"),
        "y": sales,
    }
