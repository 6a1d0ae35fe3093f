"""Attention masks with -inf, and one document is all padding: the softmax of its rows is 0/0.

From pytorch/pytorch#41508 and huggingface/transformers#31035.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "masked-softmax",
    "stage": "forward",
    "layer": "attention",
    "op": "Softmax",
    "samples": [3],
}

LENGTH, WIDTH = 6, 8


@keras.saving.register_keras_serializable("a01")
class SelfAttention(keras.layers.Layer):
    """One head over the sentences that are there."""

    def build(self, shapes):
        """Create the three projections."""
        square = (shapes[0][-1], shapes[0][-1])
        self.projections = [
            self.add_weight(name=name, shape=square) for name in ("query", "key", "value")
        ]

    def call(self, inputs):
        """Return what each sentence reads from the others."""
        hidden, present = inputs
        query, key, value = (tf.matmul(hidden, each) for each in self.projections)
        scores = tf.matmul(query, key, transpose_b=True) / WIDTH**0.5
        scores = tf.where(tf.cast(present, tf.bool)[:, None, :], scores, -np.inf)
        return tf.matmul(tf.nn.softmax(scores), value)


def model():
    """Return a classifier of documents by their sentences."""
    sentences = keras.Input((LENGTH, WIDTH), name="sentences")
    present = keras.Input((LENGTH,), name="present")
    hidden = keras.layers.Dense(WIDTH, "relu", name="embed")(sentences)
    read = SelfAttention(name="attention")([hidden, present])
    hidden = keras.layers.LayerNormalization(name="norm")(keras.layers.add([hidden, read]))
    pooled = keras.layers.GlobalAveragePooling1D()(hidden)
    topic = keras.layers.Dense(4, "softmax", name="topic")(pooled)
    built = keras.Model({"sentences": sentences, "present": present}, topic)
    built.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return eight documents; the fourth is empty."""
    rng = np.random.default_rng(0)
    lengths = np.array([6, 4, 5, 0, 3, 6, 2, 1])
    return {
        "x/sentences": rng.normal(size=(8, LENGTH, WIDTH)).astype("float32"),
        "x/present": (np.arange(LENGTH) < lengths[:, None]).astype("float32"),
        "y": rng.integers(0, 4, (8, 1)).astype("int32"),
    }
