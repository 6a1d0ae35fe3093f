"""A pairwise multi-label loss divides by labels held times labels not held; a sample holds all.

From vanHavel/bp-mll-tensorflow#1 and vanHavel/bp-mll-tensorflow#3.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "division-by-zero",
    "stage": "loss",
    "layer": None,
    "op": "RealDiv",
    "samples": [3],
}

LABELS = 5


@keras.saving.register_keras_serializable("b11")
def pairwise_loss(y_true, y_pred):
    """Return the mean of exp(-(held - not held)) over all such pairs of each sample."""
    held, other = y_true, 1.0 - y_true
    pairs = held[:, :, None] * other[:, None, :]
    gap = y_pred[:, :, None] - y_pred[:, None, :]
    total = tf.reduce_sum(pairs * tf.exp(-gap), axis=[1, 2])
    return total / (tf.reduce_sum(held, axis=1) * tf.reduce_sum(other, axis=1))


def model():
    """Return a classifier of documents by their embedded words."""
    words = keras.Input((14,), dtype="int32", name="words")
    hidden = keras.layers.Embedding(50, 12, name="embedding")(words)
    hidden = keras.layers.GlobalAveragePooling1D(name="document")(hidden)
    hidden = keras.layers.Dense(16, activation="tanh", name="hidden")(hidden)
    built = keras.Model(words, keras.layers.Dense(LABELS, activation="tanh", name="labels")(hidden))
    built.compile(keras.optimizers.Adam(1e-3), pairwise_loss)
    return built


def batch():
    """Return ten documents with their topics."""
    rng = np.random.default_rng(11)
    topics = (rng.random((10, LABELS)) < 0.4).astype("float32")
    topics[:, 0], topics[:, 1] = 1.0, 0.0
    topics[3] = 1.0
    return {"x": rng.integers(0, 50, (10, 14)).astype("int32"), "y": topics}
