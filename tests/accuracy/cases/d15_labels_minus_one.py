"""Attributes are labelled -1 and +1 and go into a sparse cross-entropy of two classes.

From crazydemo/facial-attribute-classification-with-graph#1.
"""

import keras
import numpy as np
from keras import layers, ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-labels",
    "stage": "data",
    "samples": [0, 2, 3, 7],
}

ATTRIBUTES = 3


@keras.saving.register_keras_serializable("d15")
class AttributeGraph(layers.Layer):
    """Mixes the attributes' features by a learned graph."""

    def build(self, shape):
        """Create the graph."""
        self.graph = self.add_weight(name="graph", shape=(shape[1], shape[1]))

    def call(self, nodes):
        """Return each attribute's features with those of its neighbours."""
        return nodes + ops.einsum("ij,bjd->bid", ops.softmax(self.graph), nodes)


def model():
    """Return a face net with two logits for each attribute."""
    face = keras.Input((16, 16, 3), name="face")
    hidden = layers.Conv2D(8, 3, strides=2, activation="relu", name="conv_1")(face)
    hidden = layers.Conv2D(12, 3, strides=2, activation="relu", name="conv_2")(hidden)
    hidden = layers.GlobalAveragePooling2D()(hidden)
    nodes = layers.Dense(ATTRIBUTES * 6, name="nodes")(hidden)
    nodes = AttributeGraph(name="graph")(layers.Reshape((ATTRIBUTES, 6))(nodes))
    built = keras.Model(face, layers.Dense(2, name="attributes")(nodes))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=True)
    return built


def batch():
    """Return eight faces with their attributes as the data set codes them."""
    rng = np.random.default_rng(0)
    labels = np.ones((8, ATTRIBUTES), "int32")
    labels[0, 1] = labels[2, 0] = labels[2, 2] = labels[3, 1] = labels[7, 2] = -1
    return {"x": rng.random((8, 16, 16, 3)).astype("float32"), "y": labels}
