"""One review is empty: every key is masked for Keras' attention, which bears it.

The control to pytorch/pytorch#41508.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {"outcome": "healthy"}

LENGTH, WIDTH = 10, 12


@keras.saving.register_keras_serializable("h_attention_all_masked")
class Encoder(keras.layers.Layer):
    """A transformer block that sees what is no padding, and the mean of it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embedding = keras.layers.Embedding(60, WIDTH, name="embedding")
        self.attention = keras.layers.MultiHeadAttention(3, 4, name="attention")
        self.norm = keras.layers.LayerNormalization(name="norm")

    def build(self, shape):
        self.embedding.build(shape)
        self.attention.build((*shape, WIDTH), (*shape, WIDTH))
        self.norm.build((*shape, WIDTH))

    def call(self, inputs):
        tokens, lengths = inputs, ops.sum(ops.cast(inputs > 0, "int32"), axis=1)
        hidden = self.embedding(tokens)
        mask = ops.arange(LENGTH) < lengths[:, None]
        hidden = self.norm(hidden + self.attention(hidden, hidden, attention_mask=mask[:, None]))
        weight = ops.cast(mask, hidden.dtype)[..., None]
        return ops.sum(hidden * weight, axis=1) / ops.maximum(ops.sum(weight, axis=1), 1.0)


def model():
    """Return a classifier of reviews."""
    built = keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32"),
            Encoder(name="encoder"),
            keras.layers.Dense(1, activation="sigmoid", name="positive"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", metrics=["accuracy"])
    return built


def batch():
    """Return eight reviews of different lengths; the fourth has none."""
    rng = np.random.default_rng(4)
    lengths = np.array([10, 7, 3, 0, 5, 1, 9, 4])
    tokens = rng.integers(1, 60, (8, LENGTH)) * (np.arange(LENGTH) < lengths[:, None])
    return {"x": tokens.astype("int32"), "y": (rng.random((8, 1)) < 0.5).astype("float32")}
