"""A graph convolution normalises by D^-1/2 A D^-1/2, and one node has no edge: 0^-1/2 is infinite.

From aimat-lab/gcnn_keras#42 and BorealisAI/SLAPS-GNN#3.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "division-by-zero",
    "stage": "forward",
    "layer": "conv_1",
    "op": "Pow",
    "samples": [1],
}

NODES = 6


@keras.saving.register_keras_serializable("b15")
class GraphConvolution(keras.layers.Layer):
    """Mixes every node with its neighbours, by the symmetrically normalised adjacency."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = keras.layers.Dense(units, activation="relu")

    def build(self, shapes):
        """Build the dense layer on the nodes' features."""
        self.dense.build(shapes[0])

    def call(self, inputs):
        """Return the mixed features."""
        features, adjacency = inputs
        degree = tf.pow(tf.reduce_sum(adjacency, axis=-1), -0.5)
        normalised = degree[..., :, None] * adjacency * degree[..., None, :]
        return self.dense(tf.matmul(normalised, features))

    def get_config(self):
        """Return what the layer is made of."""
        return {**super().get_config(), "units": self.units}


def model():
    """Return two graph convolutions and a read-out."""
    features = keras.Input((NODES, 4), name="features")
    adjacency = keras.Input((NODES, NODES), name="adjacency")
    hidden = GraphConvolution(8, name="conv_1")([features, adjacency])
    hidden = GraphConvolution(8, name="conv_2")([hidden, adjacency])
    energy = keras.layers.Dense(1, name="energy")(keras.layers.GlobalAveragePooling1D()(hidden))
    built = keras.Model({"features": features, "adjacency": adjacency}, energy)
    built.compile(keras.optimizers.Adam(1e-3), "mse")
    return built


def batch():
    """Return eight molecules; in the second one, an atom has no bond."""
    rng = np.random.default_rng(0)
    edges = (rng.random((8, NODES, NODES)) < 0.5).astype("float32")
    edges = np.maximum(edges, edges.transpose(0, 2, 1)) * (1 - np.eye(NODES, dtype="float32"))
    ring = np.roll(np.eye(NODES, dtype="float32"), 1, axis=1)
    edges = np.maximum(edges, ring + ring.T)
    edges[1, 3, :] = edges[1, :, 3] = 0.0
    return {
        "x/features": rng.normal(size=(8, NODES, 4)).astype("float32"),
        "x/adjacency": edges,
        "y": rng.normal(size=(8, 1)).astype("float32"),
    }
