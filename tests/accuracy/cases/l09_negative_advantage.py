"""A policy learns from one-hot moves times the advantage: a lost game makes the targets negative.

The cross-entropy has no lower bound then. From maxpumperla/deep_learning_and_the_game_of_go#90.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-labels",
    "stage": "data",
    "samples": [],
}

BOARD = 5


def model():
    """Return a policy network for Go on a 5 x 5 board."""
    built = keras.Sequential(
        [
            keras.Input((BOARD, BOARD, 3)),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv_1"),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv_2"),
            keras.layers.Flatten(),
            keras.layers.Dense(BOARD * BOARD, activation="softmax", name="policy"),
        ]
    )
    built.compile(keras.optimizers.SGD(0.5), "categorical_crossentropy")
    return built


def batch():
    """Return the moves of a game that was lost: every advantage is -1."""
    rng = np.random.default_rng(0)
    stones = rng.integers(0, 3, (16, BOARD, BOARD))
    moves = np.zeros((16, BOARD * BOARD), "float32")
    moves[np.arange(16), rng.integers(0, BOARD * BOARD, 16)] = -1.0
    return {"x": np.eye(3, dtype="float32")[stones], "y": moves}
