"""A fine-tuned net holds a frozen batch normalisation whose moving variance is negative in places.

A conversion of weights mixed mean and variance up. The family of keras-team/keras#9646.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "corrupt-weights",
    "stage": "checkpoint",
    "layer": "norm",
    "op": "Rsqrt",
    "samples": [],
}


def model():
    """Return the net, its normalisation in inference mode."""
    built = keras.Sequential(
        [
            keras.Input((10, 10, 3)),
            keras.layers.Conv2D(6, 3, name="conv"),
            keras.layers.BatchNormalization(name="norm", trainable=False),
            keras.layers.ReLU(name="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4, "softmax", name="breed"),
        ]
    )
    mixed_up = np.array([0.3, -0.2, 0.5, 0.1, -0.4, 0.2], "float32")
    built.get_layer("norm").moving_variance.assign(mixed_up)
    built.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return eight pictures."""
    rng = np.random.default_rng(42)
    return {
        "x": rng.random((8, 10, 10, 3)).astype("float32"),
        "y": rng.integers(0, 4, (8, 1)).astype("int32"),
    }
