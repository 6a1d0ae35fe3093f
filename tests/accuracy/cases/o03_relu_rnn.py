"""A relu bounds no state, and wide recurrent weights multiply it in each of 300 steps, to infinity.

From keras-team/keras#2194 and keras-team/keras#13221.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "exploding-activation",
    "stage": "forward",
    "layer": "rnn/simple_rnn_cell",
    "op": "MatMul",
    "samples": [],
}

STEPS = 300


def model():
    """Return a forecaster of long series."""
    built = keras.Sequential(
        [
            keras.Input((STEPS, 3)),
            keras.layers.SimpleRNN(
                64,
                activation="relu",
                recurrent_initializer=keras.initializers.RandomNormal(stddev=0.3),
                name="rnn",
            ),
            keras.layers.Dense(1, name="forecast"),
        ]
    )
    built.compile(keras.optimizers.RMSprop(1e-3), "mae")
    return built


def batch():
    """Return eight standardised series and their next values."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(8, STEPS, 3)).astype("float32"),
        "y": rng.normal(size=(8, 1)).astype("float32"),
    }
