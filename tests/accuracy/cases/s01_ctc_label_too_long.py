"""A captcha's label needs five frames, for a blank between its doubled letter, and has four.

Its loss is infinite, all gradients are finite.

From ypwhs/captcha_break#29 and keras-team/keras#3589.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-labels",
    "stage": "data",
    "samples": [5],
}

LETTERS, WIDTH = 10, 16


@keras.saving.register_keras_serializable("s01")
def ctc(labels, logits):
    """Return the CTC loss of labels that are padded with zeros; class 0 is the blank."""
    labels = tf.cast(labels, tf.int32)
    frames = tf.fill([tf.shape(logits)[0]], tf.shape(logits)[1])
    return tf.nn.ctc_loss(
        tf.sparse.from_dense(labels), logits, None, frames, logits_time_major=False, blank_index=0
    )


def model():
    """Return a CRNN whose two poolings leave four frames of sixteen columns."""
    built = keras.Sequential(
        [
            keras.Input((8, WIDTH, 1), name="captcha"),
            keras.layers.Conv2D(6, 3, padding="same", activation="relu", name="conv_1"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv_2"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Permute((2, 1, 3)),
            keras.layers.Reshape((4, 16)),
            keras.layers.Bidirectional(keras.layers.GRU(8, return_sequences=True), name="gru"),
            keras.layers.Dense(LETTERS + 1, name="letters"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), ctc)
    return built


def batch():
    """Return eight captchas; only the sixth has four letters, two of them the same."""
    rng = np.random.default_rng(0)
    labels = np.array([[1, 2, 3, 0], [4, 5, 6, 0], [7, 8, 9, 0], [2, 4, 6, 0]] * 2, "int32")
    labels[5] = [1, 1, 2, 3]
    return {"x": rng.random((8, 8, WIDTH, 1)).astype("float32"), "y": labels}
