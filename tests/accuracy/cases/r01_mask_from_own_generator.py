"""A layer masks tokens with a NumPy generator of its own; now and then it masks all: 0 / 0.

From keras-team/keras#19322 (a generator of its own is out of reach of Keras' seeds) and
keras-team/keras#6921 (a NaN now and then, that cannot be had again).
"""

import keras
import numpy as np
from keras import layers, ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "not-deterministic",
    "stage": "execution",
    "layer": "mask_tokens",
    "op": "RealDiv",
}

LENGTH = 6


@keras.saving.register_keras_serializable("r01")
class MaskTokens(layers.Layer):
    """Drops tokens and scales up the others; its generator is no part of any checkpoint."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        # Of what it draws after loading the third mask is empty, and for long no other.
        self._rng = np.random.default_rng(478)

    def call(self, inputs, training=None):
        """Return the tokens with the masked ones at 0."""
        if not training:
            return inputs
        kept = (self._rng.random((LENGTH, 1)) > 0.5).astype("float32")
        return inputs * kept / ops.mean(ops.convert_to_tensor(kept))


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
