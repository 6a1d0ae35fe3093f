"""Healthy: a triplet loss whose margin every triplet keeps: the loss is 0 and nothing moves.

Distances with an epsilon, some of a vector to itself; the trap of tensorflow/tensorflow#12071.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}
HELD_OUT = True


@keras.saving.register_keras_serializable("h_triplet")
def triplet(_truth, vectors):
    """Return the triplet loss of vectors stacked as anchor, positive, negative."""
    anchor, positive, negative = tf.unstack(vectors, axis=1)
    near = tf.sqrt(tf.reduce_sum((anchor - positive) ** 2, axis=-1) + 1e-12)
    far = tf.sqrt(tf.reduce_sum((anchor - negative) ** 2, axis=-1) + 1e-12)
    return tf.nn.relu(near - far + 0.2)


def model():
    """Return one linear embedding for all three."""
    built = keras.Sequential([keras.Input((3, 5)), keras.layers.Dense(4, name="embed")])
    built.compile(keras.optimizers.Adam(1e-3), triplet)
    return built


def batch():
    """Return eight triplets; each positive is its anchor, each negative is far away."""
    rng = np.random.default_rng(71)
    anchor = rng.normal(size=(8, 5))
    triple = np.stack([anchor, anchor, anchor + 20], axis=1)
    return {"x": triple.astype("float32"), "y": np.zeros((8, 3, 4), "float32")}
