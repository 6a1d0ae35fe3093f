"""Centred RMSprop takes E[g]^2 from E[g^2]: with large, constant gradients rounding is below zero.

The gradients are finite and the epsilon of 1e-7 is nothing beside them. From apache/mxnet#6235.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-hyperparameter",
    "stage": "update",
    "layer": None,
    "op": "Sqrt",
    "samples": [],
}


@keras.saving.register_keras_serializable("o11")
def wasserstein(real, score):
    """Return how far the critic tells the fakes (-1) from the real ones (+1), in thousands."""
    return -1e4 * ops.mean(real * score, axis=-1)


def model():
    """Return a linear critic, its averages where 200 steps of the same gradient leave them."""
    built = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(1, use_bias=False, name="critic"),
        ]
    )
    optimizer = keras.optimizers.RMSprop(5e-5, centered=True)
    built.compile(optimizer, wasserstein)
    optimizer.build(built.trainable_variables)
    data = batch()
    with tf.GradientTape() as tape:
        loss = ops.mean(wasserstein(ops.convert_to_tensor(data["y"]), built(data["x"])))
    gradient = np.asarray(tape.gradient(loss, built.trainable_variables[0].value))
    for slot in optimizer.variables:
        if "velocity" in slot.path:
            slot.assign(gradient * gradient)
        elif "average_gradient" in slot.path:
            slot.assign(gradient)
    return built


def batch():
    """Return sixteen real images and as many fakes."""
    rng = np.random.default_rng(0)
    real = rng.uniform(0.2, 1.0, (16, 8, 8, 1))
    fake = rng.uniform(-1.0, 0.4, (16, 8, 8, 1))
    sides = np.repeat([1.0, -1.0], 16).reshape(-1, 1)
    return {"x": np.concatenate([real, fake]).astype("float32"), "y": sides.astype("float32")}
