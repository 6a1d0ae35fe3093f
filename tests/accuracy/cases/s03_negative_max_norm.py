"""An embedding is looked up with max_norm -1, meant as "no limit": a zero row gives 0 / 0.

From tensorflow/tensorflow#24712.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "division-by-zero",
    "stage": "forward",
    "layer": "tokens",
    "op": "RealDiv",
    "samples": [1, 6],
}


@keras.saving.register_keras_serializable("s03")
class ClippedEmbedding(keras.layers.Layer):
    """Embeds tokens; no vector is longer than ``max_norm``."""

    def __init__(self, vocabulary, width, max_norm=-1.0, **kwargs):
        super().__init__(**kwargs)
        self.vocabulary, self.width, self.max_norm = vocabulary, width, max_norm

    def build(self, _shape):
        """Make the table."""
        self.table = self.add_weight(
            shape=(self.vocabulary, self.width), initializer="random_normal", name="table"
        )

    def call(self, tokens):
        """Return the vectors of the tokens."""
        table = tf.convert_to_tensor(self.table)
        return tf.nn.embedding_lookup(table, tokens, max_norm=self.max_norm)

    def get_config(self):
        """Return what the layer is made of."""
        config = {"vocabulary": self.vocabulary, "width": self.width, "max_norm": self.max_norm}
        return {**super().get_config(), **config}


def model():
    """Return a classifier of short texts; token 0 is the padding."""
    built = keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            ClippedEmbedding(30, 8, name="tokens"),
            keras.layers.Bidirectional(keras.layers.LSTM(6), name="reader"),
            keras.layers.Dense(3, activation="softmax", name="topic"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    table = np.array(built.layers[0].table)
    table[0] = 0.0
    built.layers[0].table.assign(table)
    return built


def batch():
    """Return eight texts; two are shorter than the others."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 30, (8, 7)).astype("int32")
    tokens[1, 5:] = 0
    tokens[6, 4:] = 0
    return {"x": tokens, "y": rng.integers(0, 3, 8).astype("int32")}
