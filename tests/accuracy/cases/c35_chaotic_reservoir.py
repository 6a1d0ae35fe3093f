"""A tanh RNN has recurrent weights of gain 6: its state is bounded, its gradient through time not.

The family of keras-team/keras#2194, where the activation is not to blame.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "exploding-gradient",
    "stage": "backward",
    "layer": "reservoir/simple_rnn_cell",
    "op": "MatMul",
    "samples": [],
}
HELD_OUT = True

UNITS = 48


def model():
    """Return a forecaster over 240 steps."""
    chaotic = keras.initializers.RandomNormal(stddev=6.0 / UNITS**0.5, seed=3)
    built = keras.Sequential(
        [
            keras.Input((240, 2)),
            keras.layers.SimpleRNN(UNITS, recurrent_initializer=chaotic, name="reservoir"),
            keras.layers.Dense(1, name="next"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), "mse")
    return built


def batch():
    """Return eight series of unit variance."""
    rng = np.random.default_rng(47)
    series = rng.normal(size=(8, 241, 2)).astype("float32")
    return {"x": series[:, :-1], "y": series[:, -1, :1]}
