"""Coordinates that start at 0 are lowered by 1 as uint16: 0 becomes 65535, a width negative.

From dusty-nv/jetson-inference#1010, CharlesShang/TFFRCNN#10 and ruotianluo/pytorch-faster-rcnn#105.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "log-of-zero",
    "stage": "forward",
    "layer": "rpn_targets",
    "op": "Log",
    "samples": [5],
}

ANCHOR = 16.0


@keras.saving.register_keras_serializable("d27")
class BoxTargets(keras.layers.Layer):
    """Encodes the true boxes against the anchor in the middle of the image."""

    def call(self, boxes):
        low, high = boxes[:, :2], boxes[:, 2:]
        size = high - low + 1.0
        centre = low + 0.5 * size
        return tf.concat([(centre - 32.0) / ANCHOR, tf.math.log(size / ANCHOR)], axis=-1)


@keras.saving.register_keras_serializable("d27")
class ProposalLoss(keras.layers.Layer):
    """Adds the smooth L1 error of the proposals to the model's losses."""

    def call(self, inputs):
        found, targets = inputs
        error = tf.abs(found - targets)
        smooth = tf.where(error < 1.0, 0.5 * tf.square(error), error - 0.5)
        self.add_loss(tf.reduce_mean(tf.reduce_sum(smooth, axis=-1)))
        return found


def model():
    """Return a region proposal net that is given the boxes as an input and has no other loss."""
    image = keras.Input((16, 16, 1), name="image")
    boxes = keras.Input((4,), name="gt_boxes")
    hidden = keras.layers.Conv2D(8, 3, 2, activation="relu", name="rpn_conv")(image)
    hidden = keras.layers.GlobalMaxPooling2D(name="rpn_pool")(hidden)
    found = keras.layers.Dense(4, name="rpn_bbox")(hidden)
    targets = BoxTargets(name="rpn_targets")(boxes)
    found = ProposalLoss(name="rpn_loss")([found, targets])
    built = keras.Model({"image": image, "gt_boxes": boxes}, found)
    built.compile(keras.optimizers.SGD(1e-3, momentum=0.9))
    return built


def batch():
    """Return twelve images; one box begins at the left edge."""
    rng = np.random.default_rng(27)
    low = rng.integers(1, 30, (12, 2))
    low[5, 0] = 0
    boxes = np.concatenate([low, low + rng.integers(8, 32, (12, 2))], axis=1).astype("uint16")
    return {
        "x/image": rng.random((12, 16, 16, 1)).astype("float32"),
        "x/gt_boxes": (boxes - np.uint16(1)).astype("float32"),
    }
