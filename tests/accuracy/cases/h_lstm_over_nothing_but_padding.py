"""Healthy: mask_zero, LSTM, attention and GRU over texts of which one is nothing but padding."""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}
HELD_OUT = True


def model():
    """Return a classifier of texts."""
    words = keras.Input((10,), dtype="int32", name="words")
    vectors = keras.layers.Embedding(30, 8, mask_zero=True, name="embedding")(words)
    states = keras.layers.LSTM(8, return_sequences=True, name="lstm")(vectors)
    attended = keras.layers.MultiHeadAttention(2, 4, name="attention")(states, states)
    last = keras.layers.GRU(6, name="gru")(attended)
    built = keras.Model(words, keras.layers.Dense(2, "softmax", name="class")(last))
    built.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return eight texts; the fourth is empty."""
    rng = np.random.default_rng(64)
    words = rng.integers(1, 30, (8, 10)).astype("int32")
    words[:, 7:] = 0
    words[3] = 0
    return {"x": words, "y": rng.integers(0, 2, (8, 1)).astype("int32")}
