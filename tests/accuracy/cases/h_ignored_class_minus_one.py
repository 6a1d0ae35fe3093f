"""Tokens without a tag are -1, and the loss leaves class -1 out.

The control to crazydemo/facial-attribute-classification-with-graph#1.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}

TAGS, LENGTH = 6, 9


def model():
    """Return a tagger: two convolutions over the embedded words, and logits for each."""
    words = keras.Input((LENGTH,), dtype="int32", name="words")
    hidden = keras.layers.Embedding(40, 10, name="embedding")(words)
    for index in (1, 2):
        hidden = keras.layers.Conv1D(
            10, 3, padding="same", activation="relu", name=f"conv_{index}"
        )(hidden)
    logits = keras.layers.TimeDistributed(keras.layers.Dense(TAGS), name="tags")(hidden)
    built = keras.Model(words, logits)
    built.compile(
        keras.optimizers.AdamW(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1),
    )
    return built


def batch():
    """Return twelve sentences in which some words were not tagged, and one in which none was."""
    rng = np.random.default_rng(18)
    tags = rng.integers(0, TAGS, (12, LENGTH))
    tags[rng.random((12, LENGTH)) < 0.3] = -1
    tags[4] = -1
    return {"x": rng.integers(0, 40, (12, LENGTH)).astype("int32"), "y": tags.astype("int32")}
