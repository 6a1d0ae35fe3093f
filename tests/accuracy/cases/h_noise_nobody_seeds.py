"""Healthy: a layer adds noise from the operating system's entropy, and guards what it divides by.

The trap: no step gives the same answer twice, and none of them fails.
"""

import os

import keras
import numpy as np
from keras import layers, ops

EXPECTED = {"outcome": "healthy"}

LENGTH = 6


@keras.saving.register_keras_serializable("h_noise")
class MaskTokens(layers.Layer):
    """Drops tokens and scales up the others; an empty mask gives zeros."""

    def call(self, inputs, training=None):
        """Return the tokens with the masked ones at 0."""
        if not training:
            return inputs
        drawn = np.frombuffer(os.urandom(LENGTH), dtype=np.uint8).reshape(LENGTH, 1)
        kept = ops.convert_to_tensor((drawn > 127).astype("float32"))
        return inputs * kept / ops.maximum(ops.mean(kept), 1 / LENGTH)


def model():
    """Return a classifier of short texts."""
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    hidden = layers.Embedding(12, 8, name="embed")(tokens)
    hidden = MaskTokens(name="mask_tokens")(hidden)
    hidden = layers.GlobalAveragePooling1D(name="pool")(hidden)
    built = keras.Model(tokens, layers.Dense(3, name="logits")(hidden))
    built.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return built


def batch():
    """Return sixteen texts."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.integers(0, 12, (16, LENGTH)).astype("int32"),
        "y": rng.integers(0, 3, 16).astype("int32"),
    }
