"""A head divides exp(z) by its sum, and its trained weights give one picture a logit above 89.

The family of hunglc007/tensorflow-yolov4-tflite#1: exp by hand.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "exp-overflow",
    "stage": "forward",
    "layer": "probabilities",
    "op": "Exp",
    "samples": [2],
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c17")
class HandMadeSoftmax(keras.layers.Layer):
    """A softmax that does not take the largest logit away first."""

    def call(self, logits):
        """Return the probabilities."""
        powers = tf.exp(logits)
        return powers / tf.reduce_sum(powers, axis=-1, keepdims=True)


def model():
    """Return a classifier that is very sure of what is like its class."""
    built = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(6, use_bias=False, name="logits", kernel_initializer="identity"),
            HandMadeSoftmax(name="probabilities"),
        ]
    )
    built.layers[0].kernel.assign(30 * np.eye(6))
    built.compile(keras.optimizers.Adam(1e-4), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return eight standardised samples; the third is 3.2 deviations out in one feature."""
    rng = np.random.default_rng(27)
    x = np.clip(rng.normal(size=(8, 6)), -2, 2)
    x[2, 4] = 3.2
    return {"x": x.astype("float32"), "y": rng.integers(0, 6, (8, 1)).astype("int32")}
