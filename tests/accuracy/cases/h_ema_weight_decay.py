"""Healthy: weight decay, and every fifth step the averaged weights replace the trained ones.

The trap: weights move without a gradient, and jump when the average is written over them.
"""

import keras
import numpy as np
from keras import layers

EXPECTED = {"outcome": "healthy"}

ARGUMENTS = ["--steps", "20"]


def model():
    """Return an autoencoder with a narrow waist."""
    x = keras.Input((16,), name="spectrum")
    code = layers.Dense(24, "gelu", name="encoder")(x)
    code = layers.Dense(4, name="code")(code)
    out = layers.Dense(24, "gelu", name="decoder")(code)
    built = keras.Model(x, layers.Dense(16, name="rebuilt")(out))
    built.compile(
        keras.optimizers.AdamW(
            2e-3,
            weight_decay=0.05,
            use_ema=True,
            ema_momentum=0.9,
            ema_overwrite_frequency=5,
        ),
        "mse",
    )
    return built


def batch():
    """Return thirty-two spectra of four components."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(32, 4)) @ rng.normal(size=(4, 16)) / 2).astype("float32")
    return {"x": x, "y": x}
