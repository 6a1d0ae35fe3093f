"""Two towers meet in a cosine; a query without any known word has a vector of length 0: 0/0.

The family of openai/weightnorm#4, on activations.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "division-by-zero",
    "stage": "forward",
    "layer": "cosine",
    "op": "RealDiv",
    "samples": [5],
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c13")
class Cosine(keras.layers.Layer):
    """The cosine between two vectors."""

    def call(self, pair):
        """Return the cosine of every pair."""
        lengths = [tf.sqrt(tf.reduce_sum(one * one, axis=-1)) for one in pair]
        return tf.reduce_sum(pair[0] * pair[1], axis=-1) / (lengths[0] * lengths[1])


def model():
    """Return the two towers; neither has a bias."""
    query, item = keras.Input((20,), name="query"), keras.Input((20,), name="item")
    towers = [
        keras.layers.Dense(8, use_bias=False, name=f"{name}_tower")(words)
        for name, words in (("query", query), ("item", item))
    ]
    built = keras.Model({"query": query, "item": item}, Cosine(name="cosine")(towers))
    built.compile(keras.optimizers.Adam(1e-3), "mse")
    return built


def batch():
    """Return eight queries with what was clicked; the sixth query is empty."""
    rng = np.random.default_rng(23)
    query = rng.poisson(0.5, (8, 20)).astype("float32") + np.eye(8, 20, dtype="float32")
    query[5] = 0
    return {
        "x/query": query,
        "x/item": rng.poisson(0.8, (8, 20)).astype("float32") + np.eye(8, 20, dtype="float32"),
        "y": rng.integers(0, 2, (8,)).astype("float32"),
    }
