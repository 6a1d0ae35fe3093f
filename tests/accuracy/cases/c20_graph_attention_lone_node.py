"""Graph attention scores a node's neighbours, -inf elsewhere, and one node has no neighbour.

The family of danielegrattarola/keras-gat#14 and pytorch/pytorch#26098.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "masked-softmax",
    "stage": "forward",
    "layer": "attention_1",
    "op": "Softmax",
    "samples": [2],
}
HELD_OUT = True

NODES = 5


@keras.saving.register_keras_serializable("c20")
class GraphAttention(keras.layers.Layer):
    """Mixes each node's neighbours by a softmax of their scores."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.value = keras.layers.Dense(units, name="value")
        self.score = keras.layers.Dense(1, name="score")

    def build(self, shapes):
        """Build the two dense layers."""
        self.value.build(shapes[0])
        self.score.build((*shapes[0][:-1], self.units))

    def call(self, inputs):
        """Return the mixed nodes."""
        nodes, edges = inputs
        value = self.value(nodes)
        scores = self.score(value) + tf.linalg.matrix_transpose(self.score(value))
        share = tf.nn.softmax(tf.where(edges > 0, scores, -np.inf), axis=-1)
        return tf.nn.elu(share @ value)

    def get_config(self):
        """Return what the layer is made of."""
        return {**super().get_config(), "units": self.units}


def model():
    """Return two layers of attention and a read-out."""
    nodes, edges = keras.Input((NODES, 3), name="nodes"), keras.Input((NODES, NODES), name="edges")
    hidden = GraphAttention(8, name="attention_1")([nodes, edges])
    hidden = GraphAttention(8, name="attention_2")([hidden, edges])
    pooled = keras.layers.GlobalAveragePooling1D()(hidden)
    toxic = keras.layers.Dense(1, "sigmoid", name="toxic")(pooled)
    built = keras.Model({"nodes": nodes, "edges": edges}, toxic)
    built.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    return built


def batch():
    """Return eight rings of five atoms; one atom of the third has lost its bonds."""
    rng = np.random.default_rng(32)
    ring = np.roll(np.eye(NODES, dtype="float32"), 1, axis=1)
    edges = np.tile(ring + ring.T, (8, 1, 1))
    edges[2, 4, :] = edges[2, :, 4] = 0
    return {
        "x/nodes": rng.normal(size=(8, NODES, 3)).astype("float32"),
        "x/edges": edges,
        "y": rng.integers(0, 2, (8, 1)).astype("float32"),
    }
