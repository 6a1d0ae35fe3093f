"""A trained model is compiled anew, Adam starts from empty slots: the loss jumps and comes back.

That is an annoyance and no divergence. From keras-team/tf-keras#70 and matterport/Mask_RCNN#1726.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}

ARGUMENTS = ["--steps", "40"]


def model():
    """Return a regression that was trained for 60 epochs, its optimizer just forgotten."""
    built = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(32, "tanh", name="hidden"),
            keras.layers.Dense(1, name="target"),
        ]
    )
    built.compile(keras.optimizers.Adam(0.05), "mse")
    data = batch()
    built.fit(data["x"], data["y"], batch_size=32, epochs=60, shuffle=False, verbose=0)
    built.compile(keras.optimizers.Adam(0.05), "mse")
    return built


def batch():
    """Return linear targets of standardised features."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 8)).astype("float32")
    return {"x": x, "y": x @ rng.normal(size=(8, 1)).astype("float32")}
