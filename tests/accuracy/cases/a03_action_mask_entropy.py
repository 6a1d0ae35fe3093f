"""Forbidden actions get a logit of -inf and so a probability of 0; the entropy takes its log.

From tensorforce/tensorforce#586.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "log-of-zero",
    "stage": "loss",
    "layer": None,
    "op": "Log",
    "samples": [1, 2, 6],
}

ACTIONS = 4


@keras.saving.register_keras_serializable("a03")
class Policy(keras.Model):
    """Chooses among the actions that are allowed; learns by REINFORCE with an entropy bonus."""

    def __init__(self, entropy_weight=0.01, **kwargs):
        super().__init__(**kwargs)
        self.entropy_weight = entropy_weight
        self.hidden = keras.layers.Dense(16, "tanh", name="hidden")
        self.logits = keras.layers.Dense(ACTIONS, name="logits")

    def call(self, inputs):
        """Return the logits; -inf where an action is forbidden."""
        logits = self.logits(self.hidden(inputs["state"]))
        return tf.where(inputs["allowed"] > 0, logits, -np.inf)

    def train_step(self, data):
        """Follow the policy gradient."""
        x, y, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            chances = tf.nn.softmax(self(x, training=True))
            taken = tf.gather(chances, y["action"][:, 0], batch_dims=1)
            entropy = -tf.reduce_sum(chances * tf.math.log(chances), axis=-1)
            gain = tf.math.log(taken) * y["advantage"][:, 0] + self.entropy_weight * entropy
            loss = -tf.reduce_mean(gain)
        variables = self.trainable_variables
        self.optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return {"loss": loss}

    def get_config(self):
        """Return what the policy is made of."""
        return {**super().get_config(), "entropy_weight": self.entropy_weight}


def model():
    """Return the policy."""
    built = Policy(name="policy")
    built({"state": np.zeros((1, 5), "float32"), "allowed": np.ones((1, ACTIONS), "float32")})
    built.compile(keras.optimizers.Adam(3e-4))
    return built


def batch():
    """Return eight states; in three of them some actions are forbidden."""
    rng = np.random.default_rng(0)
    allowed = np.ones((8, ACTIONS), "float32")
    allowed[1, 2] = allowed[2, 0] = allowed[2, 3] = allowed[6, 1] = 0.0
    return {
        "x/state": rng.normal(size=(8, 5)).astype("float32"),
        "x/allowed": allowed,
        "y/action": np.array([0, 1, 2, 3, 0, 1, 2, 3], "int32").reshape(-1, 1),
        "y/advantage": rng.normal(size=(8, 1)).astype("float32"),
    }
