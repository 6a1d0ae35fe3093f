"""The division by labels held times labels not held again, and then Adagrad's step raises.

Keras 3 takes a sparse gradient over a NaN accumulator apart by its row numbers, and stumbles where
a row comes twice. From vanHavel/bp-mll-tensorflow#1.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "division-by-zero",
    "stage": "loss",
    "layer": None,
    "op": "RealDiv",
    "samples": [7],
}

USERS, FILMS, GENRES = 20, 30, 4


@keras.saving.register_keras_serializable("b11_adagrad")
class RankLoss(keras.losses.Loss):
    """The share of wrongly ordered pairs of genres, softened."""

    def call(self, y_true, y_pred):
        gap = ops.expand_dims(y_pred, 2) - ops.expand_dims(y_pred, 1)
        pairs = ops.expand_dims(y_true, 2) * (1.0 - ops.expand_dims(y_true, 1))
        wrong = ops.sum(pairs * ops.sigmoid(-gap), axis=(1, 2))
        return wrong / (ops.sum(y_true, axis=1) * ops.sum(1.0 - y_true, axis=1))


def model():
    """Return a factorisation of who saw what, with a score for each genre."""
    user = keras.Input((), dtype="int32", name="user")
    film = keras.Input((), dtype="int32", name="film")
    seen = keras.layers.Embedding(USERS, 8, name="users")(user)
    shown = keras.layers.Embedding(FILMS, 8, name="films")(film)
    scores = keras.layers.Dense(GENRES, name="genres")(keras.layers.Multiply()([seen, shown]))
    built = keras.Model([user, film], scores)
    built.compile(keras.optimizers.Adagrad(0.05), RankLoss())
    return built


def batch():
    """Return 24 visits with what was liked; one visitor liked everything."""
    rng = np.random.default_rng(12)
    liked = (rng.random((24, GENRES)) < 0.5).astype("float32")
    liked[:, 0], liked[:, 1] = 1.0, 0.0
    liked[7] = 1.0
    return {
        "x/user": rng.integers(0, USERS, 24).astype("int32"),
        "x/film": rng.integers(0, FILMS, 24).astype("int32"),
        "y": liked,
    }
