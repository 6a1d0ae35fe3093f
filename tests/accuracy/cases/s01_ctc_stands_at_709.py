"""Keras' CTC gives a label without a path a constant 710: the others train on, all stays finite.

From SeanNaren/warp-ctc#29; healthy by the contract, though the sample teaches nothing.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}

FRAMES, PHONES = 6, 8


def model():
    """Return a small acoustic model."""
    sound = keras.Input((FRAMES, 12), name="sound")
    hidden = keras.layers.Conv1D(16, 3, padding="same", activation="relu", name="conv")(sound)
    hidden = keras.layers.LSTM(12, return_sequences=True, name="lstm")(hidden)
    phones = keras.layers.Dense(PHONES + 1, name="phones")(hidden)
    built = keras.Model(sound, phones)
    built.compile(keras.optimizers.Adam(1e-2), keras.losses.CTC())
    return built


def batch():
    """Return six utterances; the third says more than it has frames."""
    rng = np.random.default_rng(0)
    labels = rng.integers(1, PHONES + 1, (6, 6)).astype("int32")
    labels[:, 3:] = 0
    labels[2] = [1, 1, 2, 2, 3, 3]
    return {"x": rng.normal(size=(6, FRAMES, 12)).astype("float32"), "y": labels}
