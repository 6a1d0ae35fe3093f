"""A distance on the globe is acos of a dot product, and the directions are a little too long.

The family of ktjonsson/keras-ArcFace#2.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "invalid-domain",
    "stage": "loss",
    "layer": None,
    "op": "Acos",
    "samples": [1, 5],
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c14")
def great_circle(truth, place):
    """Return the angle between two places, as unit vectors."""
    return tf.acos(tf.reduce_sum(truth * place, axis=-1))


def model():
    """Return a net that places pictures on the globe."""
    built = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(3, use_bias=False, name="place", kernel_initializer="identity"),
        ]
    )
    built.compile(keras.optimizers.SGD(1e-3), great_circle)
    return built


def batch():
    """Return six places; two of the vectors have the length 1.02."""
    rng = np.random.default_rng(24)
    true = rng.normal(size=(6, 3))
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    guess = true + 0.3 * rng.normal(size=(6, 3))
    guess /= np.linalg.norm(guess, axis=1, keepdims=True)
    guess[[1, 5]] = 1.02 * true[[1, 5]]
    return {"x": guess.astype("float32"), "y": true.astype("float32")}
