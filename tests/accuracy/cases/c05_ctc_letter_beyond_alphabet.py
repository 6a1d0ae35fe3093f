"""An umlaut was added to the transcripts and not to the alphabet: CTC is given a class too high.

The family of ypwhs/captcha_break#29.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "diverged", "cause": "bad-labels", "stage": "data", "samples": [1]}

LETTERS, FRAMES = 12, 10


@keras.saving.register_keras_serializable("c05")
def ctc(labels, logits):
    """Return the CTC loss of transcripts of four letters; class 0 is the blank."""
    rows = tf.shape(logits)[0]
    return tf.nn.ctc_loss(
        tf.sparse.from_dense(tf.cast(labels, tf.int32)),
        logits,
        None,
        tf.fill([rows], FRAMES),
        logits_time_major=False,
        blank_index=0,
    )


def model():
    """Return a recogniser of short utterances."""
    built = keras.Sequential(
        [
            keras.Input((FRAMES, 6), name="sound"),
            keras.layers.GRU(12, return_sequences=True, name="gru"),
            keras.layers.Dense(LETTERS + 1, name="letters"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), ctc)
    return built


def batch():
    """Return six utterances; in the second, a letter is number 15 of 12."""
    rng = np.random.default_rng(15)
    labels = np.stack([rng.permutation(LETTERS)[:4] + 1 for _ in range(6)]).astype("int32")
    labels[1, 2] = 15
    return {"x": rng.normal(size=(6, FRAMES, 6)).astype("float32"), "y": labels}
