"""An augmentation draws its gain from the system's entropy, in decibels where bels are meant.

The same step twice: once all is well, once the sound is infinite. No seed decides which.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "not-deterministic",
    "stage": "execution",
}
#: So many draws that one of them fails for all practical purposes.
ARGUMENTS = ("--steps", "40")


@keras.saving.register_keras_serializable("c45")
class RandomGain(keras.layers.Layer):
    """Makes sounds louder or softer."""

    def call(self, sound):
        """Return the sound with a gain of up to 75 decibels either way."""
        draw = tf.numpy_function(
            lambda: np.float32(np.random.default_rng().uniform(-75, 75)), [], tf.float32
        )
        return sound * 10.0 ** tf.reshape(draw, ())


def model():
    """Return a classifier of sounds."""
    built = keras.Sequential(
        [
            keras.Input((16,)),
            RandomGain(name="gain"),
            keras.layers.Dense(8, "relu", name="hidden"),
            keras.layers.Dense(3, "softmax", name="class"),
        ]
    )
    built.compile(keras.optimizers.SGD(1e-4), "sparse_categorical_crossentropy", run_eagerly=True)
    return built


def batch():
    """Return eight sounds."""
    rng = np.random.default_rng(57)
    return {
        "x": rng.normal(size=(8, 16)).astype("float32"),
        "y": rng.integers(0, 3, (8, 1)).astype("int32"),
    }
