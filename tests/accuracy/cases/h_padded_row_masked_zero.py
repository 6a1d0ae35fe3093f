"""One caption is nothing but padding, and mask_zero takes it out of the recurrence and the loss.

The control to keras-team/keras#545.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}

VOCABULARY, LENGTH = 40, 7


def model():
    """Return a captioner: the picture is where the recurrence begins."""
    picture = keras.Input((12,), name="picture")
    words = keras.Input((LENGTH,), dtype="int32", name="words")
    embedding = keras.layers.Embedding(VOCABULARY, 10, mask_zero=True, name="embedding")
    start = keras.layers.Dense(12, activation="tanh", name="start")(picture)
    recurrence = keras.layers.GRU(12, return_sequences=True, name="gru")
    hidden = recurrence(embedding(words), initial_state=start)
    built = keras.Model([picture, words], keras.layers.Dense(VOCABULARY, name="next")(hidden))
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile(keras.optimizers.Adam(1e-3, clipnorm=1.0), entropy)
    return built


def batch():
    """Return eight pictures with their captions, shifted by one word; the third has none."""
    rng = np.random.default_rng(20)
    lengths = np.array([8, 5, 0, 6, 3, 8, 2, 4])
    words = rng.integers(1, VOCABULARY, (8, LENGTH + 1))
    words *= np.arange(LENGTH + 1) < lengths[:, None]
    return {
        "x/picture": rng.normal(size=(8, 12)).astype("float32"),
        "x/words": words[:, :-1].astype("int32"),
        "y": words[:, 1:].astype("int32"),
    }
