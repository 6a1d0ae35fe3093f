"""A layer takes log(p + 1e-8) in float16, where 1e-8 is 0, of a share that is exactly 0.

The family of google/gemma_pytorch#24.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "low-precision-underflow",
    "stage": "forward",
    "layer": "surprise",
    "op": "Log",
    "samples": [0, 7],
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c41")
class Surprise(keras.layers.Layer):
    """Gives the surprise at each share of a spectrum."""

    def call(self, shares):
        """Return -log(share), kept from infinity by an epsilon."""
        return -tf.math.log(shares + 1e-8)


def model():
    """Return a classifier of sounds under mixed precision."""
    keras.config.set_dtype_policy("mixed_float16")
    built = keras.Sequential(
        [
            keras.Input((12,)),
            Surprise(name="surprise"),
            keras.layers.Dense(16, "relu", name="hidden"),
            keras.layers.Dense(4, dtype="float32", name="instrument"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile(keras.optimizers.SGD(1e-3), loss)
    return built


def batch():
    """Return ten spectra; two of them have an empty band."""
    rng = np.random.default_rng(53)
    shares = rng.uniform(0.1, 1, (10, 12))
    shares[0, 3] = shares[7, 10] = 0
    shares /= shares.sum(axis=1, keepdims=True)
    return {"x": shares.astype("float32"), "y": rng.integers(0, 4, (10, 1)).astype("int32")}
