"""Healthy: activations are clipped by their norm, and two rows are exactly zero.

From tensorflow/tensorflow#22048, mended since.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}


@keras.saving.register_keras_serializable("h_clip")
class ClipByNorm(keras.layers.Layer):
    """Shortens each row to a length of at most 1."""

    def call(self, inputs):
        """Return the clipped rows."""
        return tf.clip_by_norm(inputs, 1.0, axes=[-1])


def model():
    """Return a capsule-like classifier over sets of points."""
    points = keras.Input((5, 3), name="points")
    hidden = keras.layers.TimeDistributed(
        keras.layers.Dense(8, activation="relu", use_bias=False), name="point"
    )(points)
    capsule = ClipByNorm(name="clip")(keras.layers.GlobalMaxPooling1D(name="most")(hidden))
    built = keras.Model(points, keras.layers.Dense(3, activation="softmax", name="shape")(capsule))
    built.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return eight sets of points; two are empty and padded with zeros."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(8, 5, 3)).astype("float32")
    points[[2, 6]] = 0.0
    return {"x": points, "y": rng.integers(0, 3, 8).astype("int32")}
