"""The error of a rotation is acos(|q . p|), and one prediction is right: no derivative at 1.

The family of ronghuaiyang/arcface-pytorch#32.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "gradient-singularity",
    "stage": "backward",
    "layer": None,
    "op": "Acos",
    "samples": [3],
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c37")
def rotation_error(truth, quaternion):
    """Return twice the angle between two unit quaternions."""
    return 2.0 * tf.acos(tf.abs(tf.reduce_sum(truth * quaternion, axis=-1)))


def model():
    """Return a refiner of poses that starts as the identity."""
    built = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, use_bias=False, kernel_initializer="identity", name="refine"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-4), rotation_error)
    return built


def batch():
    """Return eight coarse poses and the true ones; the fourth stands still at (1, 0, 0, 0)."""
    rng = np.random.default_rng(49)
    true = rng.normal(size=(8, 4))
    coarse = true + 0.4 * rng.normal(size=(8, 4))
    true, coarse = (q / np.linalg.norm(q, axis=1, keepdims=True) for q in (true, coarse))
    true[3] = coarse[3] = [1, 0, 0, 0]
    coarse = np.where(np.arange(8)[:, None] == 3, coarse, 0.99 * coarse)
    return {"x": coarse.astype("float32"), "y": true.astype("float32")}
