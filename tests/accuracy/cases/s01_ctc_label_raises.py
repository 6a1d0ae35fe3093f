"""A transcript has more characters than the sound has frames: the CTC loss refuses it.

From SeanNaren/warp-ctc#29 and meijieru/crnn.pytorch#235.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-labels",
    "stage": "data",
    "samples": [2],
}

FRAMES, FEATURES, CHARACTERS = 6, 10, 8


@keras.saving.register_keras_serializable("s01b")
class SpeechModel(keras.Model):
    """Spells what was said; knows how many characters each transcript has."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = keras.layers.Conv1D(16, 3, padding="same", activation="relu", name="conv")
        self.gru = keras.layers.GRU(12, return_sequences=True, name="gru")
        self.characters = keras.layers.Dense(CHARACTERS + 1, "softmax", name="characters")

    def call(self, sound):
        """Return the chance of each character in each frame; the last one is the blank."""
        return self.characters(self.gru(self.conv(sound)))

    @tf.function
    def ctc(self, labels, lengths, chances):
        """Return the CTC loss of each transcript, computed time-major from log chances."""
        spoken = tf.where(tf.sequence_mask(lengths, tf.shape(labels)[1]))
        sparse = tf.SparseTensor(spoken, tf.gather_nd(labels, spoken), tf.shape(labels, tf.int64))
        frames = tf.fill([tf.shape(chances)[0]], tf.shape(chances)[1])
        time_major = tf.math.log(tf.transpose(chances, (1, 0, 2)) + 1e-7)
        return tf.compat.v1.nn.ctc_loss(sparse, time_major, frames)

    def compute_loss(self, _x, y, y_pred, *_):
        """Return the mean loss over the transcripts."""
        return tf.reduce_mean(self.ctc(y["text"], y["length"], y_pred))


def model():
    """Return the speech model."""
    built = SpeechModel(name="speech")
    built(np.zeros((1, FRAMES, FEATURES), "float32"))
    built.compile(keras.optimizers.Adam(1e-3))
    return built


def batch():
    """Return six utterances; the third was cut short and its transcript was not."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(6, FRAMES, FEATURES)).astype("float32"),
        "y/text": rng.integers(0, CHARACTERS, (6, 8)).astype("int32"),
        "y/length": np.array([3, 2, 8, 3, 1, 2], "int32"),
    }
