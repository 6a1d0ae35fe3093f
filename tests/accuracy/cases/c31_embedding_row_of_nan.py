"""One row of an embedding was NaN when it was saved; only texts with that word are hit.

The family of tensorflow/tensorflow#47020.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "corrupt-weights",
    "stage": "checkpoint",
    "layer": "words",
}
HELD_OUT = True


def model():
    """Return a classifier of texts; the vector of word 23 is NaN."""
    built = keras.Sequential(
        [
            keras.Input((8,), dtype="int32"),
            keras.layers.Embedding(40, 6, name="words"),
            keras.layers.LSTM(8, name="lstm"),
            keras.layers.Dense(2, "softmax", name="spam"),
        ]
    )
    table = np.array(built.get_layer("words").embeddings.value)
    table[23] = np.nan
    built.get_layer("words").embeddings.assign(table)
    built.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return nine texts; the fifth holds word 23."""
    rng = np.random.default_rng(43)
    words = rng.integers(0, 20, (9, 8)).astype("int32")
    words[4, 3] = 23
    return {"x": words, "y": rng.integers(0, 2, (9, 1)).astype("int32")}
