"""Healthy: the distance of a pair is tf.norm with an epsilon inside; equal images do no harm.

The remedy of tensorflow/tensorflow#12071.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}


@keras.saving.register_keras_serializable("h_norm")
class Distance(keras.layers.Layer):
    """Euclidean distance of two embeddings, never exactly zero."""

    def call(self, one, other):
        """Return the distance of each pair."""
        return tf.norm(one - other + 1e-6, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("h_norm")
def contrastive_loss(same, distance):
    """Draw equal pairs together and push others apart, up to a margin of 1."""
    apart = tf.maximum(1.0 - distance, 0.0)
    return tf.reduce_mean(same * distance + (1.0 - same) * apart, axis=-1)


def model():
    """Return the siamese net; both branches share the encoder."""
    encoder = keras.Sequential(
        [keras.Input((12,)), keras.layers.Dense(16, "relu"), keras.layers.Dense(8)], name="encoder"
    )
    left, right = keras.Input((12,), name="left"), keras.Input((12,), name="right")
    distance = Distance(name="distance")(encoder(left), encoder(right))
    built = keras.Model({"left": left, "right": right}, distance)
    built.compile(keras.optimizers.Adam(1e-3), contrastive_loss)
    return built


def batch():
    """Return eight pairs; two of them pair a signature with itself, once under the wrong label."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 8, 12)).astype("float32")
    right[[2, 5]] = left[[2, 5]]
    same = (np.arange(8) % 2 == 0).astype("float32")[:, None]
    return {"x/left": left, "x/right": right, "y": same}
