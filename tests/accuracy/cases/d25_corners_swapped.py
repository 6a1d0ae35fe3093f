"""One box has its corners in the wrong order; the loader's log of its negative width is NaN.

From tensorflow/models#1881 and tensorflow/models#3688.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "diverged", "cause": "bad-labels", "stage": "data", "samples": [4]}

ANCHORS, CLASSES = 6, 3


@keras.saving.register_keras_serializable("d25")
def localisation(y_true, y_pred):
    """Return the smooth L1 error of the anchors that hold an object."""
    offsets, positive = y_true[..., :4], y_true[..., 4]
    error = tf.abs(offsets - y_pred)
    smooth = tf.reduce_sum(tf.where(error < 1.0, 0.5 * error**2, error - 0.5), axis=-1)
    return tf.reduce_sum(smooth * positive) / tf.maximum(tf.reduce_sum(positive), 1.0)


def model():
    """Return a single-shot detector: offsets and classes for every anchor."""
    image = keras.Input((12, 12, 3), name="image")
    hidden = keras.layers.Conv2D(8, 3, 2, activation="relu6", name="conv_1")(image)
    hidden = keras.layers.DepthwiseConv2D(3, activation="relu6", name="depthwise")(hidden)
    hidden = keras.layers.Flatten(name="flat")(hidden)
    boxes = keras.layers.Dense(4 * ANCHORS, name="box_head")(hidden)
    classes = keras.layers.Dense(CLASSES * ANCHORS, name="class_head")(hidden)
    outputs = {
        "boxes": keras.layers.Reshape((ANCHORS, 4), name="boxes")(boxes),
        "classes": keras.layers.Reshape((ANCHORS, CLASSES), name="classes")(classes),
    }
    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    built = keras.Model(image, outputs)
    built.compile(
        keras.optimizers.RMSprop(1e-3),
        loss={"boxes": localisation, "classes": entropy},
        loss_weights={"boxes": 1.0, "classes": 1.0},
    )
    return built


def batch():
    """Return eight images whose boxes the loader has encoded against the anchors (4 wide)."""
    rng = np.random.default_rng(25)
    low = rng.uniform(0, 5, (8, ANCHORS, 2))
    high = low + rng.uniform(2, 6, (8, ANCHORS, 2))
    low[4, 1], high[4, 1] = (9.0, 2.0), (5.0, 6.0)
    positive = rng.random((8, ANCHORS, 1)) < 0.5
    positive[4, 1] = True
    with np.errstate(invalid="ignore"):
        size = np.log((high - low) / 4.0)
    targets = np.concatenate([(low + high) / 8.0 - 1.0, size, positive], axis=-1)
    return {
        "x": rng.random((8, 12, 12, 3)).astype("float32"),
        "y/boxes": targets.astype("float32"),
        "y/classes": np.where(positive[..., 0], rng.integers(1, CLASSES, (8, ANCHORS)), 0),
    }
