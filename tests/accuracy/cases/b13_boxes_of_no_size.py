"""A padded box of no size meets a predicted one of no size: their IoU is 0/0, mask or not.

From YunYang1994/tensorflow-yolov3#225 and YunYang1994/tensorflow-yolov3#529.
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
    "samples": [4],
}

BOXES = 3


def _corners(boxes):
    return boxes[..., :2] - boxes[..., 2:4] / 2.0, boxes[..., :2] + boxes[..., 2:4] / 2.0


@keras.saving.register_keras_serializable("b13")
def giou_loss(y_true, y_pred):
    """Return 1 - GIoU of the boxes that are there."""
    (low, high), (own_low, own_high) = _corners(y_true), _corners(y_pred)
    shared = tf.maximum(tf.minimum(high, own_high) - tf.maximum(low, own_low), 0.0)
    hull = tf.maximum(high, own_high) - tf.minimum(low, own_low)
    shared, hull = tf.reduce_prod(shared, axis=-1), tf.reduce_prod(hull, axis=-1)
    area = tf.reduce_prod(high - low, axis=-1) + tf.reduce_prod(own_high - own_low, axis=-1)
    union = area - shared
    giou = shared / union - (hull - union) / hull
    return tf.reduce_sum(y_true[..., 4] * (1.0 - giou), axis=-1)


@keras.saving.register_keras_serializable("b13")
class Boxes(keras.layers.Layer):
    """Turns raw numbers into centres inside the image and sizes from zero up."""

    def call(self, raw):
        raw = tf.reshape(raw, (-1, BOXES, 4))
        return tf.concat([tf.sigmoid(raw[..., :2]), tf.nn.relu(raw[..., 2:])], axis=-1)


def model():
    """Return a detector of three boxes; in the third one the sizes have died."""
    image = keras.Input((12, 12, 3), name="image")
    hidden = keras.layers.Conv2D(8, 3, 2, activation="relu", name="conv")(image)
    hidden = keras.layers.GlobalAveragePooling2D(name="pool")(hidden)
    raw = keras.layers.Dense(4 * BOXES, name="raw")
    built = keras.Model(image, Boxes(name="boxes")(raw(hidden)))
    raw.bias.assign([0.0, 0.0, 0.5, 0.5, 0.0, 0.0, 0.5, 0.5, 0.0, 0.0, -5.0, -5.0])
    built.compile(keras.optimizers.Adam(1e-3), giou_loss)
    return built


def batch():
    """Return eight images of three boxes, but one of them with two and a padded one."""
    rng = np.random.default_rng(13)
    place, size = rng.uniform(0.3, 0.7, (8, BOXES, 2)), rng.uniform(0.1, 0.4, (8, BOXES, 2))
    boxes = np.concatenate([place, size, np.ones((8, BOXES, 1))], axis=-1)
    boxes[4, 2] = 0.0
    return {"x": rng.random((8, 12, 12, 3)).astype("float32"), "y": boxes.astype("float32")}
