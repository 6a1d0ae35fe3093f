"""A graph net sums its neighbours' messages, without a norm, for 60 rounds: each multiplies by 9.

The family of aimat-lab/gcnn_keras#42.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "exploding-activation",
    "stage": "forward",
    "layer": "round_40",
    "op": "BatchMatMulV2",
    "samples": [],
}
HELD_OUT = True

NODES, ROUNDS = 10, 60


@keras.saving.register_keras_serializable("c36")
class SumOfNeighbours(keras.layers.Layer):
    """Adds up a node's neighbours."""

    def call(self, inputs):
        """Return the sums."""
        return tf.matmul(inputs[1], inputs[0])


def model():
    """Return the net; one dense layer is shared by all rounds."""
    nodes, edges = keras.Input((NODES, 8), name="nodes"), keras.Input((NODES, NODES), name="edges")
    update = keras.layers.Dense(8, "relu", kernel_initializer="identity", name="update")
    hidden = nodes
    for number in range(ROUNDS):
        hidden = update(SumOfNeighbours(name=f"round_{number:02}")([hidden, edges]))
    pooled = keras.layers.GlobalAveragePooling1D()(hidden)
    built = keras.Model(
        {"nodes": nodes, "edges": edges}, keras.layers.Dense(1, name="energy")(pooled)
    )
    built.compile(keras.optimizers.Adam(1e-3), "mae")
    return built


def batch():
    """Return six complete graphs of ten nodes."""
    rng = np.random.default_rng(48)
    edges = np.tile(1 - np.eye(NODES, dtype="float32"), (6, 1, 1))
    return {
        "x/nodes": rng.random((6, NODES, 8)).astype("float32"),
        "x/edges": edges,
        "y": rng.normal(size=(6, 1)).astype("float32"),
    }
