"""A graph-contrastive loss is -log(sum of neighbours / sum of all), and a node has none: log(0).

From yanghu819/Graph-MLP#1.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "log-of-zero",
    "stage": "loss",
    "layer": None,
    "op": "Log",
    "samples": [5],
}


@keras.saving.register_keras_serializable("l15")
class GraphMLP(keras.Model):
    """Classifies nodes; neighbours are drawn together by a contrastive loss on the hidden layer."""

    def __init__(self, classes=3, temperature=2.0, **kwargs):
        super().__init__(**kwargs)
        self.classes, self.temperature = classes, temperature
        self.first = keras.layers.Dense(16, activation="gelu", name="first")
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.second = keras.layers.Dense(8, name="second")
        self.head = keras.layers.Dense(classes, name="head")

    def call(self, features):
        """Return hidden representation and logits of the nodes."""
        hidden = self.second(self.norm(self.first(features)))
        return hidden, self.head(hidden)

    def contrast(self, hidden, adjacency):
        """Return the contrastive loss of each node."""
        unit = tf.math.l2_normalize(hidden, axis=-1)
        alike = tf.exp(self.temperature * tf.matmul(unit, unit, transpose_b=True))
        alike *= 1.0 - tf.eye(tf.shape(alike)[0])
        near = tf.reduce_sum(alike * adjacency, axis=-1)
        return -tf.math.log(near / tf.reduce_sum(alike, axis=-1))

    def train_step(self, data):
        """Take one step on both losses."""
        features, targets = keras.utils.unpack_x_y_sample_weight(data)[:2]
        with tf.GradientTape() as tape:
            hidden, logits = self(features, training=True)
            entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(targets["label"], logits)
            loss = tf.reduce_mean(entropy + self.contrast(hidden, targets["adjacency"]))
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}

    def get_config(self):
        """Return what the model is made of."""
        config = {"classes": self.classes, "temperature": self.temperature}
        return {**super().get_config(), **config}


def model():
    """Return the model, built."""
    built = GraphMLP(name="graph_mlp")
    built(np.zeros((1, 10), "float32"))
    built.compile(keras.optimizers.Adam(1e-2))
    return built


def batch():
    """Return twelve nodes of a citation graph; the sixth cites nobody among the others."""
    rng = np.random.default_rng(0)
    ring = np.roll(np.eye(12, dtype="float32"), 1, axis=1)
    adjacency = np.maximum(ring + ring.T, np.roll(ring, 2, axis=1) + np.roll(ring, 2, axis=1).T)
    adjacency[5] = adjacency[:, 5] = 0.0
    return {
        "x": (rng.random((12, 10)) < 0.3).astype("float32"),
        "y/label": rng.integers(0, 3, 12).astype("int32"),
        "y/adjacency": adjacency,
    }
