"""The loader divides every node's words by their number, and one node has no word: 0/0 is NaN.

From danielegrattarola/keras-gat#14 and danielegrattarola/keras-gat#28.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "diverged", "cause": "bad-input", "stage": "data", "samples": [9]}

NODES, WORDS, CLASSES = 12, 10, 3


@keras.saving.register_keras_serializable("d01")
class GraphAttention(keras.layers.Layer):
    """Mixes every node with its neighbours, by softmax of a learned score for each edge."""

    def __init__(self, units, heads, activation=None, **kwargs):
        super().__init__(**kwargs)
        self.units, self.heads = units, heads
        self.activation = keras.activations.get(activation)

    def build(self, shapes):
        width = self.heads * self.units
        self.kernel = self.add_weight((shapes[0][-1], width), name="kernel")
        self.own = self.add_weight((self.heads, self.units), name="own")
        self.other = self.add_weight((self.heads, self.units), name="other")

    def call(self, inputs):
        features, adjacency = inputs
        hidden = tf.reshape(features @ self.kernel, (-1, self.heads, self.units))
        own = tf.einsum("nhu,hu->nh", hidden, self.own)
        other = tf.einsum("nhu,hu->nh", hidden, self.other)
        scores = tf.nn.leaky_relu(own[:, None] + other[None], 0.2)
        scores -= 1e9 * (1.0 - adjacency)[..., None]
        mixed = tf.einsum("nmh,mhu->nhu", tf.nn.softmax(scores, axis=1), hidden)
        return self.activation(tf.reshape(mixed, (-1, self.heads * self.units)))

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        own = {"units": self.units, "heads": self.heads, "activation": activation}
        return {**super().get_config(), **own}


def model():
    features = keras.Input((WORDS,), name="features")
    adjacency = keras.Input((NODES,), name="adjacency")
    hidden = keras.layers.Dropout(0.2)(features)
    hidden = GraphAttention(8, 2, "elu", name="gat_1")([hidden, adjacency])
    scores = GraphAttention(CLASSES, 1, "softmax", name="gat_2")([hidden, adjacency])
    built = keras.Model({"features": features, "adjacency": adjacency}, scores)
    built.compile(keras.optimizers.Adam(5e-3), "categorical_crossentropy")
    return built


def batch():
    """Return a whole graph; the node without words is one of those that only test."""
    rng = np.random.default_rng(1)
    words = (rng.random((NODES, WORDS)) < 0.4).astype("float32")
    words[:, 0] = 1.0
    words[9] = 0.0
    with np.errstate(invalid="ignore"):
        words /= words.sum(axis=1, keepdims=True)
    ring = np.roll(np.eye(NODES, dtype="float32"), 1, axis=1)
    train = np.arange(NODES) < 8
    return {
        "x/features": words,
        "x/adjacency": np.eye(NODES, dtype="float32") + ring + ring.T,
        "y": np.eye(CLASSES, dtype="float32")[rng.integers(0, CLASSES, NODES)],
        "sample_weight": train.astype("float32"),
    }
