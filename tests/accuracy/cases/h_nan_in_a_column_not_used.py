"""Healthy: the table has a column of NaN, which the model slices away before anything else."""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}
HELD_OUT = True


@keras.saving.register_keras_serializable("h_columns")
class Columns(keras.layers.Layer):
    """Keeps the columns that the model was made for."""

    def call(self, table):
        """Return the first four columns."""
        return table[:, :4]

    def compute_output_shape(self, shape):
        """Return what is left of a table's shape."""
        return (shape[0], 4)


def model():
    """Return a tabular net."""
    built = keras.Sequential(
        [
            keras.Input((6,)),
            Columns(name="columns"),
            keras.layers.Dense(12, "relu", name="hidden"),
            keras.layers.Dense(1, "sigmoid", name="churn"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    return built


def batch():
    """Return sixteen customers; of the last two columns nothing is known, or it is infinite."""
    rng = np.random.default_rng(67)
    table = rng.normal(size=(16, 6)).astype("float32")
    table[:, 4] = np.nan
    table[3, 5] = np.inf
    return {"x": table, "y": rng.integers(0, 2, (16, 1)).astype("float32")}
