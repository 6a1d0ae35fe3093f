"""A squashed policy recovers the raw action by atanh, and tanh has rounded it to exactly 1.

From ray-project/ray#14878.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "invalid-domain",
    "stage": "forward",
    "layer": "log_prob",
    "op": "Atanh",
    "samples": [2, 9],
}


@keras.saving.register_keras_serializable("l17")
class SquashedLogProbability(keras.layers.Layer):
    """Log-probability of an action under a Gaussian behind a tanh."""

    def call(self, mean, log_std, action):
        """Return the log-probability of each action."""
        raw = ops.arctanh(ops.clip(action, -1.0, 1.0))
        gaussian = -0.5 * ((raw - mean) / ops.exp(log_std)) ** 2 - log_std
        squash = ops.log(1.0 - action**2 + 1e-6)
        return ops.sum(gaussian - squash, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("l17")
def actor_loss(value, log_probability):
    """Return the soft actor's loss, the entropy bonus less the value."""
    return ops.mean(0.2 * log_probability - value, axis=-1)


def model():
    """Return an actor with two controls; the first has grown bold in one direction."""
    state = keras.Input((5,), name="state")
    hidden = keras.layers.Dense(16, activation="tanh", name="hidden")(state)
    mean = keras.layers.Dense(2, name="mean")(hidden)
    log_std = keras.layers.Dense(2, activation="tanh", name="log_std")(hidden)
    action = keras.layers.Activation("tanh", name="squash")(mean)
    score = SquashedLogProbability(name="log_prob")(mean, log_std, action)
    built = keras.Model(state, score)
    built.compile(keras.optimizers.Adam(3e-4), actor_loss)
    first = np.random.default_rng(1).normal(size=(5, 16)) * 0.2
    first[0] = 1.0
    built.get_layer("hidden").set_weights([first, np.zeros(16)])
    bold = np.stack([np.full(16, 0.8), np.linspace(-0.1, 0.1, 16)], axis=1)
    built.get_layer("mean").set_weights([bold, np.zeros(2)])
    return built


def batch():
    """Return twelve states with their values; two lie far along the bold direction."""
    rng = np.random.default_rng(0)
    states = rng.uniform(-0.4, 0.4, (12, 5)).astype("float32")
    states[[2, 9], 0] = 2.0
    return {"x": states, "y": rng.normal(size=(12, 1)).astype("float32")}
