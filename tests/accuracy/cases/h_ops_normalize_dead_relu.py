"""Healthy: metric learning on ops.normalize of embeddings, one of which is all zero behind a ReLU.

The derivative is safe on the TensorFlow back end. From keras-team/keras#23075.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {"outcome": "healthy"}


@keras.saving.register_keras_serializable("h_normalize")
class UnitLength(keras.layers.Layer):
    """Scales each embedding to length 1."""

    def call(self, inputs):
        """Return the unit vectors."""
        return ops.normalize(inputs, axis=-1, order=2)


@keras.saving.register_keras_serializable("h_normalize")
def proxy_loss(y_true, y_pred):
    """Return the cross-entropy of scaled cosines to the classes' proxies."""
    return keras.losses.sparse_categorical_crossentropy(y_true, 8.0 * y_pred, from_logits=True)


def model():
    """Return an image retrieval net with a proxy for each class."""
    built = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(6, 3, strides=2, activation="relu", use_bias=False, name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="relu", use_bias=False, name="embedding"),
            UnitLength(name="unit"),
            keras.layers.Dense(4, use_bias=False, kernel_constraint="unit_norm", name="proxies"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), proxy_loss)
    return built


def batch():
    """Return eight images; the fourth is black."""
    rng = np.random.default_rng(0)
    images = rng.random((8, 8, 8, 1)).astype("float32")
    images[3] = 0.0
    return {"x": images, "y": rng.integers(0, 4, (8, 1)).astype("int32")}
