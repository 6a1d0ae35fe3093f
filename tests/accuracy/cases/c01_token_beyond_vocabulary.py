"""The tokenizer was trained again and has more words than the embedding has rows: a lookup fails.

The mechanism of tensorflow/tensorflow#8484, in the inputs in place of the labels.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-input",
    "stage": "data",
    "layer": "words",
    "samples": [3],
}
HELD_OUT = True

VOCABULARY, LENGTH = 50, 9


def model():
    """Return a classifier of headlines."""
    built = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY, 8, name="words"),
            keras.layers.Conv1D(12, 3, activation="relu", name="phrases"),
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dense(4, "softmax", name="topic"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return ten headlines; the fourth holds the word 57."""
    rng = np.random.default_rng(11)
    words = rng.integers(1, VOCABULARY, (10, LENGTH)).astype("int32")
    words[3, 5] = 57
    return {"x": words, "y": rng.integers(0, 4, (10, 1)).astype("int32")}
