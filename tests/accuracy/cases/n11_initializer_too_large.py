"""The kernels of a deep net are drawn with a standard deviation of 8: each layer multiplies by 20.

From tensorflow/tensorflow#323.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "exploding-activation",
    "stage": "forward",
    "layer": "dense_28",
    "op": "MatMul",
    "samples": [],
}

DEPTH = 34


def model():
    """Return a deep and narrow classifier of digits."""
    built = keras.Sequential([keras.Input((5, 5, 1)), keras.layers.Flatten()])
    for index in range(DEPTH):
        wide = keras.initializers.RandomNormal(stddev=8.0, seed=index)
        name = f"dense_{index:02d}"
        built.add(keras.layers.Dense(16, "leaky_relu", kernel_initializer=wide, name=name))
    built.add(keras.layers.Dense(10, name="digit"))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile(keras.optimizers.SGD(1e-3), loss)
    return built


def batch():
    """Return sixteen digits of 5 x 5 pixels in [0, 1]."""
    rng = np.random.default_rng(0)
    digits = rng.random((16, 5, 5, 1)).astype("float32")
    return {"x": digits, "y": rng.integers(0, 10, 16).astype("int32")}
