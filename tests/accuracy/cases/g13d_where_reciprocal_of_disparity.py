"""Depth is where(disparity > 0, f / disparity, 0): safe forward, 0 * inf in the derivative.

From tensorflow/tensorflow#20091 and pytorch/pytorch#156212.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "gradient-singularity",
    "stage": "backward",
    "layer": "depth",
    "op": "RealDiv",
    "samples": [1],
}


@keras.saving.register_keras_serializable("g13d")
class DepthFromDisparity(keras.layers.Layer):
    """Turns disparity into depth; where there is no match, depth is 0."""

    def __init__(self, focal=2.0, **kwargs):
        super().__init__(**kwargs)
        self.focal = focal

    def call(self, disparity):
        """Return the depth of each pixel."""
        depth = self.focal / disparity
        return ops.where(ops.abs(disparity) > 0.0, depth, ops.zeros_like(depth))

    def get_config(self):
        """Return what the layer is made of."""
        return {**super().get_config(), "focal": self.focal}


def model():
    """Return a small stereo net with two outputs, disparity and depth."""
    left = keras.Input((8, 8, 1), name="left")
    right = keras.Input((8, 8, 1), name="right")
    pair = keras.layers.Concatenate(name="pair")([left, right])
    positive = keras.initializers.RandomUniform(0.0, 0.2, seed=4)
    for name, filters in (("match", 8), ("disparity", 1)):
        pair = keras.layers.Conv2D(
            filters, 3, padding="same", activation="relu", use_bias=False,
            kernel_initializer=positive, name=name,
        )(pair)  # fmt: skip
    depth = DepthFromDisparity(name="depth")(pair)
    built = keras.Model([left, right], [pair, depth])
    built.compile(keras.optimizers.Adam(1e-4), ["mae", "huber"], loss_weights=[1.0, 0.1])
    return built


def batch():
    """Return six pairs of views; the second pair was taken with the lens cap on."""
    rng = np.random.default_rng(0)
    left, right = rng.uniform(0.2, 1.0, (2, 6, 8, 8, 1)).astype("float32")
    left[1] = right[1] = 0.0
    disparity = rng.uniform(0.5, 2.0, (6, 8, 8, 1)).astype("float32")
    return {
        "x_0": left,
        "x_1": right,
        "y_0": disparity,
        "y_1": 2.0 / disparity,
        "sample_weight": np.array([1.0, 1.0, 0.5, 1.0, 0.5, 1.0], "float32")[:, None, None],
    }
