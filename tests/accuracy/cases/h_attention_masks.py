"""Healthy: a causal and a padding mask write -inf into the scores, no row is masked as a whole.

The trap: the forward pass is full of infinities, and the softmax makes zeros of them.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {"outcome": "healthy"}

LENGTH, WIDTH, WORDS = 8, 12, 30


@keras.saving.register_keras_serializable("h_attention_masks")
class MaskedAttention(keras.layers.Layer):
    """One head that sees neither what follows nor the padding at the end."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.project = keras.layers.Dense(3 * WIDTH, use_bias=False, name="qkv")

    def build(self, shapes):
        """Build the projection."""
        self.project.build(shapes[0])

    def call(self, inputs):
        """Return what each word reads from those before it."""
        hidden, tokens = inputs
        query, key, value = ops.split(self.project(hidden), 3, axis=-1)
        scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / WIDTH**0.5
        causal = ops.where(ops.tril(ops.ones((LENGTH, LENGTH))) > 0, 0.0, -np.inf)
        padding = ops.where(ops.not_equal(tokens, 0), 0.0, -np.inf)[:, None, :]
        return ops.matmul(ops.softmax(scores + causal + padding), value)


def model():
    """Return a language model of one block."""
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    hidden = keras.layers.Embedding(WORDS, WIDTH, name="embed")(tokens)
    read = MaskedAttention(name="attention")([hidden, tokens])
    hidden = keras.layers.LayerNormalization(name="norm")(hidden + read)
    built = keras.Model(tokens, keras.layers.Dense(WORDS, "softmax", name="next_word")(hidden))
    built.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return eight sentences, padded at the end; padding carries no weight in the loss."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, WORDS, (8, LENGTH + 1)).astype("int32")
    tokens *= np.arange(LENGTH + 1) < rng.integers(3, LENGTH + 2, (8, 1))
    weight = (tokens[:, 1:] > 0).astype("float32")
    return {"x": tokens[:, :-1], "y": tokens[:, 1:], "sample_weight": weight}
