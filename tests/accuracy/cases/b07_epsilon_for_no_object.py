"""The error is divided by the number of objects plus 1e-7, and there is none: a loss of 1e7.

From keras-team/keras-cv#1683, keras-team/keras-cv#1684 and keras-team/keras#21908.
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
    "samples": [],
}

SIZE = 8


@keras.saving.register_keras_serializable("b07")
class HeatmapLoss(keras.losses.Loss):
    """The squared error of the heat map for each object in the batch."""

    def call(self, y_true, y_pred):
        objects = ops.sum(ops.cast(y_true > 0.99, y_pred.dtype))
        return ops.sum(ops.square(y_true - y_pred)) / (objects + keras.config.epsilon())


def model():
    """Return a detector of centres: three convolutions and a map of where objects are."""
    built = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3), name="image"),
            keras.layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="conv_1"),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv_2"),
            keras.layers.Conv2D(1, 1, name="heatmap"),
        ]
    )
    built.compile(keras.optimizers.SGD(1e-3), HeatmapLoss(reduction=None))
    return built


def batch():
    """Return four images without an object."""
    rng = np.random.default_rng(7)
    return {
        "x": rng.random((4, SIZE, SIZE, 3)).astype("float32"),
        "y": np.zeros((4, SIZE // 2, SIZE // 2, 1), "float32"),
    }
