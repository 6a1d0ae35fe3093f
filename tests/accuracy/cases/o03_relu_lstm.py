"""An LSTM with relu in place of tanh encodes 250 steps; its state grows at every one of them.

From AlexanderVNikitin/tsgm#59 and tensorflow/tensorflow#39676.
"""

import keras
import numpy as np
from keras import layers

EXPECTED = {
    "outcome": "diverged",
    "cause": "exploding-activation",
    "stage": "forward",
    "layer": "encoder/lstm_cell",
    "op": "MatMul",
    "samples": [],
}

STEPS = 250


def model():
    """Return an autoencoder of time series."""
    series = keras.Input((STEPS, 2), name="series")
    wide = keras.initializers.RandomNormal(stddev=1.0)
    code = layers.LSTM(16, activation="relu", recurrent_initializer=wide, name="encoder")(series)
    code = layers.Dense(4, name="latent")(code)
    hidden = layers.Dense(16, "relu", name="decoder_hidden")(code)
    hidden = layers.Dense(STEPS * 2, name="decoder_out")(hidden)
    built = keras.Model(series, layers.Reshape((STEPS, 2))(hidden))
    built.compile(keras.optimizers.Adam(1e-3), "mse")
    return built


def batch():
    """Return eight pairs of waves."""
    rng = np.random.default_rng(0)
    phase = rng.uniform(0, 6, (8, 1, 2)) + np.linspace(0, 20, STEPS).reshape(1, -1, 1)
    waves = np.sin(phase).astype("float32")
    return {"x": waves, "y": waves}
