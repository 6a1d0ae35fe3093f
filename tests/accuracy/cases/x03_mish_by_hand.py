"""mish is written as x * tanh(log(1 + exp(x))): right even where exp overflows, NaN backward.

From hunglc007/tensorflow-yolov4-tflite#1.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "exp-overflow",
    "stage": "forward",
    "layer": "conv_2",
    "op": "Exp",
    "samples": [4],
}


@keras.saving.register_keras_serializable("x03")
def mish(x):
    """Return x * tanh(softplus(x))."""
    return x * tf.math.tanh(tf.math.log(1.0 + tf.exp(x)))


@tf.function
def grid_loss(has, place, score, cells):
    """Return the loss of a grid of cells."""
    place = tf.reduce_sum(has * tf.square(place - cells), axis=[1, 2, 3])
    score = tf.nn.sigmoid_cross_entropy_with_logits(has, score)
    return place + tf.reduce_sum(score, axis=[1, 2, 3])


@keras.saving.register_keras_serializable("x03")
def yolo_loss(y_true, y_pred):
    """Return the loss of each picture; a cell holds x, y, w, h, object."""
    return grid_loss(y_true[..., 4:], y_pred[..., :4], y_pred[..., 4:], y_true[..., :4])


def model():
    """Return a darknet in small."""
    built = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            keras.layers.Conv2D(6, 3, strides=2, padding="same", activation=mish, name="conv_1"),
            keras.layers.Conv2D(8, 3, strides=2, padding="same", activation=mish, name="conv_2"),
            keras.layers.Conv2D(8, 3, padding="same", activation=mish, name="conv_3"),
            keras.layers.Conv2D(5, 1, name="cells"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-4), yolo_loss)
    for layer, gain in (("conv_1", 3.0), ("conv_2", 3.0), ("conv_3", 0.02)):
        kernel, bias = built.get_layer(layer).get_weights()
        built.get_layer(layer).set_weights([np.abs(kernel) * gain, bias])
    return built


def batch():
    """Return six pictures in [0, 1]; the fifth is overexposed."""
    rng = np.random.default_rng(0)
    pictures = rng.random((6, 16, 16, 3)).astype("float32") * 0.3
    pictures[4] = 1.0
    cells = rng.random((6, 4, 4, 5)).astype("float32")
    cells[..., 4] = cells[..., 4] < 0.3
    return {"x": pictures, "y": cells}
