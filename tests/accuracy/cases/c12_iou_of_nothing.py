"""A soft IoU divides by the union, and where nothing is and nothing is predicted it is 0/0.

The family of YunYang1994/tensorflow-yolov3#225, on masks.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

EXPECTED = {
    "outcome": "diverged",
    "cause": "division-by-zero",
    "stage": "loss",
    "layer": None,
    "op": "RealDiv",
    "samples": [0],
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c12")
def soft_iou(truth, prediction):
    """Return 1 - IoU of every image."""
    axes = (1, 2, 3)
    both = tf.reduce_sum(truth * prediction, axes)
    union = tf.reduce_sum(truth, axes) + tf.reduce_sum(prediction, axes) - both
    return 1.0 - both / union


def model():
    """Return a net that marks lesions on slices; outside the body its ReLU gives exactly zero."""
    built = keras.Sequential(
        [
            keras.Input((10, 10, 1)),
            layers.Conv2D(6, 3, padding="same", activation="relu", use_bias=False, name="conv"),
            layers.Conv2D(
                1, 1, activation="tanh", use_bias=False, kernel_initializer="ones", name="lesion"
            ),
            layers.ReLU(name="positive"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-4), soft_iou)
    return built


def batch():
    """Return six slices; the first lies above the head and is black."""
    rng = np.random.default_rng(22)
    image = rng.random((6, 10, 10, 1)).astype("float32")
    image[0] = 0
    return {"x": image, "y": (image > 0.7).astype("float32")}
