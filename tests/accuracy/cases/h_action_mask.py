"""Healthy: forbidden actions get a logit of -inf, and only a sparse cross-entropy reads them.

The trap: the model's output holds -inf. The control to tensorforce/tensorforce#586.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}

ACTIONS = 5


@keras.saving.register_keras_serializable("h_action_mask")
class MaskedPolicy(keras.Model):
    """Imitates an expert among the actions that are allowed."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(24, "relu", name="hidden")
        self.logits = keras.layers.Dense(ACTIONS, name="logits")

    def call(self, inputs):
        """Return the logits; -inf where an action is forbidden."""
        logits = self.logits(self.hidden(inputs["board"]))
        return tf.where(inputs["allowed"] > 0, logits, -np.inf)


def model():
    """Return the policy."""
    built = MaskedPolicy(name="policy")
    built({"board": np.zeros((1, 9), "float32"), "allowed": np.ones((1, ACTIONS), "float32")})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built.compile(keras.optimizers.RMSprop(1e-3), loss, metrics=["accuracy"])
    return built


def batch():
    """Return sixteen boards with the expert's moves, all of them allowed."""
    rng = np.random.default_rng(0)
    move = rng.integers(0, ACTIONS, 16).astype("int32")
    allowed = (rng.random((16, ACTIONS)) < 0.6).astype("float32")
    allowed[np.arange(16), move] = 1.0
    return {
        "x/board": rng.integers(-1, 2, (16, 9)).astype("float32"),
        "x/allowed": allowed,
        "y": move.reshape(-1, 1),
    }
