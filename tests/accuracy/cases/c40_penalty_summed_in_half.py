"""A penalty adds up the squares of a big feature map in float16: the sum passes 65504.

The family of matterport/Mask_RCNN#1780: the penalty is in no displayed loss.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "low-precision-overflow",
    "stage": "forward",
    "layer": "penalty",
    "op": "Sum",
    "samples": [],
}


@keras.saving.register_keras_serializable("c40")
class ActivityPenalty(keras.layers.Layer):
    """Passes features on, and adds their squares to the loss."""

    def call(self, features):
        """Return the features."""
        self.add_loss(tf.cast(1e-6 * tf.reduce_sum(tf.square(features)), tf.float32))
        return features


def model():
    """Return a classifier with a penalty on its features, under mixed precision."""
    keras.config.set_dtype_policy("mixed_float16")
    built = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.Conv2D(24, 3, padding="same", name="features"),
            ActivityPenalty(name="penalty"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3, dtype="float32", name="class"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile(keras.optimizers.Adam(1e-3), loss)
    return built


def batch():
    """Return sixteen standardised pictures."""
    rng = np.random.default_rng(52)
    return {
        "x": rng.normal(size=(16, 32, 32, 3)).astype("float32"),
        "y": rng.integers(0, 3, (16, 1)).astype("int32"),
    }
