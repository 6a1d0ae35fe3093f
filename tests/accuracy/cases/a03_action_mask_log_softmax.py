"""A masked policy's entropy as softmax times log_softmax: 0 times -inf is NaN.

The same -inf does no harm to the cross-entropy beside it. From tensorforce/tensorforce#586 and
hill-a/stable-baselines#505.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "log-of-zero",
    "stage": "loss",
    "layer": None,
    "op": "Mul",
    "samples": [0, 5],
}

ACTIONS = 5


@keras.saving.register_keras_serializable("a03b")
def imitation_with_entropy(action, logits):
    """Return the cross-entropy of the expert's action, less a bonus for staying undecided."""
    cross = keras.losses.sparse_categorical_crossentropy(action, logits, from_logits=True)
    entropy = -ops.sum(ops.softmax(logits) * ops.log_softmax(logits), axis=-1)
    return cross - 0.02 * entropy


@keras.saving.register_keras_serializable("a03b")
class ActionMask(keras.layers.Layer):
    """Takes the forbidden actions out of the race."""

    def call(self, logits, allowed):
        """Return the logits, -inf where an action is forbidden."""
        return ops.where(ops.equal(allowed, 1), logits, -float("inf"))


def model():
    """Return a policy that imitates an expert."""
    board = keras.Input((9,), name="board")
    allowed = keras.Input((ACTIONS,), dtype="int32", name="allowed")
    hidden = keras.layers.Dense(24, "relu", name="trunk")(board)
    logits = keras.layers.Dense(ACTIONS, name="policy")(hidden)
    masked = ActionMask(name="mask")(logits, allowed)
    built = keras.Model({"board": board, "allowed": allowed}, masked)
    built.compile(keras.optimizers.RMSprop(1e-3), imitation_with_entropy)
    return built


def batch():
    """Return eight boards with the expert's moves; two boards forbid a move."""
    rng = np.random.default_rng(0)
    allowed = np.ones((8, ACTIONS), "int32")
    allowed[0, 4] = allowed[5, 1] = 0
    return {
        "board": rng.integers(-1, 2, (8, 9)).astype("float32"),
        "allowed": allowed,
        "y": np.array([0, 1, 2, 3, 4, 0, 1, 2], "int32").reshape(-1, 1),
    }
