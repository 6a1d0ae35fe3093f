"""Instance normalisation without an epsilon meets a map of one pixel, whose variance is 0.

The family of tensorflow/tensorflow#34062 and tensorflow/tensorflow#61287.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "degenerate-normalization",
    "stage": "forward",
    "layer": "norm_2",
    "op": "Rsqrt",
    "samples": [],
}
HELD_OUT = True


def model():
    """Return a discriminator that halves its pictures until one pixel is left."""
    built = keras.Sequential([keras.Input((4, 4, 3))])
    for number in (1, 2):
        built.add(
            keras.layers.Conv2D(
                6, 3, strides=2, padding="same", use_bias=False, name=f"conv_{number}"
            )
        )
        built.add(keras.layers.GroupNormalization(groups=6, epsilon=0.0, name=f"norm_{number}"))
        built.add(keras.layers.LeakyReLU(name=f"relu_{number}"))
    built.add(keras.layers.Flatten())
    built.add(keras.layers.Dense(1, "sigmoid", name="real"))
    built.compile(keras.optimizers.Adam(1e-4), "binary_crossentropy")
    return built


def batch():
    """Return six pictures of 4 x 4 pixels, half of them real."""
    rng = np.random.default_rng(44)
    return {
        "x": rng.random((6, 4, 4, 3)).astype("float32"),
        "y": (np.arange(6)[:, None] % 2).astype("float32"),
    }
