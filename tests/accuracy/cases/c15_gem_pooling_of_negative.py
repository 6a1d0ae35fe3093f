"""Generalised-mean pooling raises features to the power 2.7, and one picture has negative ones.

The family of VainF/pytorch-msssim#7: a negative base to a fractional power.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "invalid-domain",
    "stage": "forward",
    "layer": "gem",
    "op": "Pow",
    "samples": [4],
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c15")
class GeneralisedMean(keras.layers.Layer):
    """Pools by the p-th root of the mean of the p-th powers; p is learnt."""

    def build(self, _shape):
        """Make the power."""
        self.power = self.add_weight(
            name="power", initializer=keras.initializers.Constant(2.7), shape=()
        )

    def call(self, features):
        """Return the pooled features."""
        mean = tf.reduce_mean(tf.pow(features, self.power), axis=(1, 2))
        return tf.pow(mean, 1.0 / self.power)


def model():
    """Return a head for retrieval, on the features of a backbone."""
    built = keras.Sequential(
        [
            keras.Input((4, 4, 6)),
            GeneralisedMean(name="gem"),
            keras.layers.Dense(5, name="landmark"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile(keras.optimizers.Adam(1e-3), loss)
    return built


def batch():
    """Return eight feature maps; the fifth comes from a backbone without its last ReLU."""
    rng = np.random.default_rng(25)
    features = rng.uniform(0.1, 2, (8, 4, 4, 6)).astype("float32")
    features[4] = rng.normal(size=(4, 4, 6))
    return {"x": features, "y": rng.integers(0, 5, (8, 1)).astype("int32")}
