"""Each loss is divided by its own size to balance them, and one of them is exactly 0: 0/0.

From rickgroen/cov-weighting#3.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "division-by-zero",
    "stage": "loss",
    "layer": None,
    "op": "RealDiv",
    "samples": [],
}

SIZE = 8


@keras.saving.register_keras_serializable("b17")
class Balanced(keras.Model):
    """Learns depth and the flow between two frames, with losses of equal size."""

    def train_step(self, data):
        frame, targets = data
        with tf.GradientTape() as tape:
            depth, flow = self(frame, training=True)
            smooth = tf.abs(flow[:, 1:] - flow[:, :-1])
            losses = [
                tf.reduce_mean(tf.abs(depth - targets["depth"])),
                tf.reduce_mean(tf.square(flow - targets["flow"])),
                tf.reduce_mean(smooth),
            ]
            balanced = [loss / tf.stop_gradient(loss) for loss in losses]
            loss = tf.add_n(balanced)
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss, "depth": losses[0], "flow": losses[1]}


def model():
    """Return two heads on one backbone; the flow starts at zero everywhere."""
    frame = keras.Input((SIZE, SIZE, 6), name="frames")
    hidden = keras.layers.Conv2D(8, 3, padding="same", activation="elu", name="conv_1")(frame)
    hidden = keras.layers.Conv2D(8, 3, padding="same", activation="elu", name="conv_2")(hidden)
    depth = keras.layers.Conv2D(1, 1, activation="softplus", name="depth")(hidden)
    flow = keras.layers.Conv2D(2, 1, kernel_initializer="zeros", name="flow")(hidden)
    built = Balanced(frame, [depth, flow])
    built.compile(keras.optimizers.Adam(1e-4))
    return built


def batch():
    """Return six pairs of frames, with depth and flow."""
    rng = np.random.default_rng(17)
    return {
        "x": rng.random((6, SIZE, SIZE, 6)).astype("float32"),
        "y/depth": rng.uniform(1, 9, (6, SIZE, SIZE, 1)).astype("float32"),
        "y/flow": rng.normal(size=(6, SIZE, SIZE, 2)).astype("float32"),
    }
