"""Healthy: a kernel is made orthogonal through its SVD, and its singular values are all equal.

From tensorflow/tensorflow#17476, mended since.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}


@keras.saving.register_keras_serializable("h_svd")
class OrthogonalDense(keras.layers.Layer):
    """Dense layer that uses the orthogonal matrix nearest to its kernel."""

    def build(self, shape):
        """Make the kernel: the identity at first."""
        size = (shape[-1], shape[-1])
        self.kernel = self.add_weight(shape=size, initializer="identity", name="kernel")

    def call(self, inputs):
        """Return the rotated inputs."""
        _, left, right = tf.linalg.svd(tf.convert_to_tensor(self.kernel))
        return tf.matmul(inputs, tf.matmul(left, right, adjoint_b=True))


def model():
    """Return a net with two rotations."""
    inputs = keras.Input((6,), name="pose")
    hidden = OrthogonalDense(name="rotation_1")(inputs)
    hidden = OrthogonalDense(name="rotation_2")(keras.layers.Activation("tanh")(hidden))
    built = keras.Model(inputs, keras.layers.Dense(2, name="place")(hidden))
    built.compile(keras.optimizers.SGD(0.01), "mse")
    return built


def batch():
    """Return sixteen poses."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(16, 6)).astype("float32"),
        "y": rng.normal(size=(16, 2)).astype("float32"),
    }
