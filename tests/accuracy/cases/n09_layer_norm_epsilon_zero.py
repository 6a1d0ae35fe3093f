"""LayerNormalization with epsilon 0 meets padded steps, whose features are alike: variance zero.

From tensorflow/tensorflow#61287.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "degenerate-normalization",
    "stage": "forward",
    "layer": "norm_1",
    "op": "Rsqrt",
    "samples": [0, 3],
}


def model():
    """Return one encoder block of a transformer over sensor readings."""
    readings = keras.Input((6, 8), name="readings")
    normed = keras.layers.LayerNormalization(epsilon=0.0, name="norm_1")(readings)
    attended = keras.layers.MultiHeadAttention(2, 4, name="attention")(normed, normed)
    hidden = keras.layers.Add(name="residual_1")([readings, attended])
    hidden = keras.layers.Add(name="residual_2")(
        [hidden, keras.layers.Dense(8, activation="gelu", name="feed_forward")(hidden)]
    )
    pooled = keras.layers.GlobalAveragePooling1D(name="pool")(hidden)
    built = keras.Model(readings, keras.layers.Dense(1, name="wear")(pooled))
    built.compile(keras.optimizers.Adam(1e-3, global_clipnorm=1.0), "mse")
    return built


def batch():
    """Return eight machines; two were switched on late, their first steps are padded with zeros."""
    rng = np.random.default_rng(0)
    readings = rng.normal(size=(8, 6, 8)).astype("float32")
    readings[0, :3] = 0.0
    readings[3, :1] = 0.0
    return {"readings": readings, "y": rng.random((8, 1)).astype("float32")}
