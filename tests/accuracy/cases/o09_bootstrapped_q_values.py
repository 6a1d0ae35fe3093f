"""The target network is the network itself, and the next state scores double: Q chases its tail.

Each step multiplies the TD error at any learning rate; a smaller one only makes it slower. No cause
of the catalogue is this. From facebookresearch/ReAgent#189 and keras-rl/keras-rl#28.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "unexplained",
    "samples": [],
}

ARGUMENTS = ["--steps", "40"]


@keras.saving.register_keras_serializable("o09")
class DeepQ(keras.Model):
    """Learns the value of two actions from transitions, by its own estimate of what follows."""

    def __init__(self, discount=0.99, follow=1.0, **kwargs):
        super().__init__(**kwargs)
        self.discount, self.follow = discount, follow
        self.online, self.target = (
            keras.layers.Dense(2, use_bias=False, kernel_initializer="ones", name=name)
            for name in ("online", "target")
        )
        self.target.trainable = False

    def build(self, shape):
        """Build both networks."""
        self.online.build(shape)
        self.target.build(shape)

    def call(self, state):
        """Return the value of each action."""
        return self.online(state)

    def compute_loss(self, _x, y, y_pred, *_):
        """Return the squared TD error of the action that was taken."""
        best = ops.max(self.target(y["next_state"]), axis=-1)
        wanted = y["reward"][:, 0] + self.discount * ops.stop_gradient(best)
        taken = ops.sum(y_pred * ops.one_hot(y["action"][:, 0], 2), axis=-1)
        return ops.mean(ops.square(wanted - taken))

    def train_step(self, data):
        """Learn, then let the target network follow."""
        logs = super().train_step(data)
        now, then = self.online.kernel, self.target.kernel
        then.assign(self.follow * now + (1.0 - self.follow) * then)
        return logs

    def get_config(self):
        """Return what the model is made of."""
        return {**super().get_config(), "discount": self.discount, "follow": self.follow}


def model():
    """Return the agent."""
    built = DeepQ(name="agent")
    built.build((None, 3))
    built.compile(keras.optimizers.SGD(0.1))
    return built


def batch():
    """Return sixteen transitions whose next state is twice the state."""
    rng = np.random.default_rng(0)
    state = (1.0 + 0.1 * rng.random((16, 3))).astype("float32")
    return {
        "x": state,
        "y/next_state": 2 * state,
        "y/action": rng.integers(0, 2, (16, 1)).astype("int32"),
        "y/reward": np.zeros((16, 1), "float32"),
    }
