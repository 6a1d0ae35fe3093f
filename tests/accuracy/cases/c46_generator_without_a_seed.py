"""Noise comes from a generator that seeds itself, with tails so heavy that one step in two fails.

No checkpoint holds its state: the same step twice gives different answers.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "not-deterministic",
    "stage": "execution",
}


@keras.saving.register_keras_serializable("c46")
class HeavyNoise(keras.layers.Layer):
    """Adds noise with a Pareto tail, common to the batch."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.source = tf.random.Generator.from_non_deterministic_state()

    def call(self, x, training=None):
        """Return x, with noise while training."""
        if not training:
            return x
        uniform = self.source.uniform((), 1e-6, 1.0)
        return x + uniform**-120.0


def model():
    """Return a noisy regression."""
    built = keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(8, "tanh", name="hidden"),
            HeavyNoise(name="noise"),
            keras.layers.Dense(1, name="target"),
        ]
    )
    built.compile(keras.optimizers.SGD(1e-4), "mae", run_eagerly=True)
    return built


def batch():
    """Return sixteen samples."""
    rng = np.random.default_rng(58)
    return {
        "x": rng.normal(size=(16, 5)).astype("float32"),
        "y": rng.normal(size=(16, 1)).astype("float32"),
    }
