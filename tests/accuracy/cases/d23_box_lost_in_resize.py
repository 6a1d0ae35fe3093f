"""The loss scales boxes to the net's pixels; a tiny one gets width 0, and the log of it counts.

From qqwweee/keras-yolo3#171, qqwweee/keras-yolo3#121 and qqwweee/keras-yolo3#710.
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
    "samples": [3],
}

PHOTO, INPUT, GRID, ANCHOR = 640, 32, 4, 8.0


@keras.saving.register_keras_serializable("d23")
class YoloLoss(keras.losses.Loss):
    """The error of place, size and presence in every cell of the grid."""

    def call(self, y_true, y_pred):
        present = y_true[..., 4:]
        corners = tf.floor(y_true[..., :4] * INPUT / PHOTO)
        low, high = corners[..., :2], corners[..., 2:]
        place = ((low + high) / 2.0 * GRID / INPUT) % 1.0
        size = tf.math.log((high - low) / ANCHOR)
        size = tf.where(present > 0, size, tf.zeros_like(size))
        error = present * tf.square(tf.sigmoid(y_pred[..., :2]) - place)
        error += 0.5 * present * tf.square(y_pred[..., 2:4] - size)
        sure = tf.nn.sigmoid_cross_entropy_with_logits(present, y_pred[..., 4:])
        return tf.reduce_sum(error, axis=(1, 2, 3)) + tf.reduce_sum(sure, axis=(1, 2, 3))


def model():
    """Return a backbone of three strided convolutions and one head."""
    layers = [keras.Input((INPUT, INPUT, 3), name="photo")]
    for index, filters in enumerate((6, 8, 12)):
        layers.append(keras.layers.Conv2D(filters, 3, 2, padding="same", name=f"conv_{index}"))
        layers.append(keras.layers.LeakyReLU(0.1, name=f"leaky_{index}"))
    built = keras.Sequential([*layers, keras.layers.Conv2D(5, 1, name="head")])
    built.compile(keras.optimizers.Adam(1e-3), YoloLoss())
    return built


def batch():
    """Return eight photos with one box each; that of the fourth is 9 pixels wide."""
    rng = np.random.default_rng(23)
    targets = np.zeros((8, GRID, GRID, 5), "float32")
    for photo in range(8):
        row, column = rng.integers(0, GRID, 2)
        left, top = 160 * column + 41, 160 * row + 41
        wide, high = (9, 60) if photo == 3 else rng.integers(60, 100, 2)
        targets[photo, row, column] = (left, top, left + wide, top + high, 1.0)
    return {"x": rng.random((8, INPUT, INPUT, 3)).astype("float32"), "y": targets}
