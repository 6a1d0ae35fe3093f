"""A polynomial decay is asked for a step beyond its last: a negative base to a fractional power.

From tensorflow/tensorflow#13271.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-hyperparameter",
    "stage": "update",
    "layer": None,
    "op": "Pow",
    "samples": [],
}


@keras.saving.register_keras_serializable("o05")
class PolyDecay(keras.optimizers.schedules.LearningRateSchedule):
    """The 'poly' policy of segmentation papers."""

    def __init__(self, initial, total, power=0.9):
        self.initial, self.total, self.power = initial, total, power

    def __call__(self, step):
        """Return the rate of one step."""
        share = tf.cast(step, tf.float32) / self.total
        return self.initial * tf.pow(1.0 - share, self.power)

    def get_config(self):
        """Return what the schedule is made of."""
        return {"initial": self.initial, "total": self.total, "power": self.power}


def model():
    """Return a small segmentation net, two steps before the end of its schedule."""
    image = keras.Input((16, 16, 3), name="image")
    hidden = keras.layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(image)
    hidden = keras.layers.BatchNormalization(name="bn")(hidden)
    hidden = keras.layers.ReLU()(hidden)
    hidden = keras.layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="down")(hidden)
    hidden = keras.layers.Conv2DTranspose(4, 2, 2, name="logits")(hidden)
    built = keras.Model(image, hidden)
    optimizer = keras.optimizers.SGD(PolyDecay(0.1, total=10), momentum=0.9)
    built.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    optimizer.build(built.trainable_variables)
    optimizer.iterations.assign(9)
    return built


def batch():
    """Return four images with their masks."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.random((4, 16, 16, 3)).astype("float32"),
        "y": rng.integers(0, 4, (4, 16, 16)).astype("int32"),
    }
