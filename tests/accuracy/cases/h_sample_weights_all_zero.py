"""No sample of the batch counts, and the loss is Keras' own: it is 0, and nothing is learned.

The control to keras-team/keras#3270.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}


def model():
    """Return a tagger of words with two outputs, each weighted by itself."""
    words = keras.Input((8,), dtype="int32", name="words")
    hidden = keras.layers.Embedding(30, 8, name="embedding")(words)
    hidden = keras.layers.Bidirectional(keras.layers.LSTM(4), name="lstm")(hidden)
    topic = keras.layers.Dense(5, activation="softmax", name="topic")(hidden)
    mood = keras.layers.Dense(1, name="mood")(hidden)
    built = keras.Model(words, {"topic": topic, "mood": mood})
    entropy = keras.losses.SparseCategoricalCrossentropy(reduction="mean_with_sample_weight")
    built.compile("adam", loss={"topic": entropy, "mood": "mse"})
    return built


def batch():
    """Return six sentences; none of them has a topic, nor a mood."""
    rng = np.random.default_rng(12)
    return {
        "x": rng.integers(0, 30, (6, 8)).astype("int32"),
        "y/topic": rng.integers(0, 5, 6),
        "y/mood": rng.normal(size=(6, 1)).astype("float32"),
        "sample_weight/topic": np.zeros(6, "float32"),
        "sample_weight/mood": np.zeros(6, "float32"),
    }
