"""A spectrogram is sqrt(re^2 + im^2) behind a learnt filter, and a clip holds digital silence.

From KinWaiCheuk/nnAudio#138 and pytorch/audio#993.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "gradient-singularity",
    "stage": "backward",
    "layer": "spectrogram",
    "op": "Sqrt",
    "samples": [6],
}


@keras.saving.register_keras_serializable("g07")
class Spectrogram(keras.layers.Layer):
    """Magnitudes of a short-time Fourier transform."""

    def __init__(self, frame=16, hop=8, **kwargs):
        super().__init__(**kwargs)
        self.frame, self.hop = frame, hop

    def call(self, waves):
        """Return (batch, time, frequency)."""
        spectrum = tf.signal.stft(waves[..., 0], self.frame, self.hop)
        real, imaginary = tf.math.real(spectrum), tf.math.imag(spectrum)
        return tf.sqrt(real**2 + imaginary**2)

    def compute_output_shape(self, shape):
        """Return the shape of the spectrogram."""
        return (shape[0], (shape[1] - self.frame) // self.hop + 1, self.frame // 2 + 1)

    def get_config(self):
        """Return frame and hop."""
        return {**super().get_config(), "frame": self.frame, "hop": self.hop}


def model():
    """Return a recogniser of spoken digits with a learnt pre-emphasis."""
    wave = keras.Input((128, 1), name="wave")
    emphasis = keras.layers.Conv1D(1, 5, padding="same", use_bias=False, name="emphasis")(wave)
    frames = Spectrogram(name="spectrogram")(emphasis)
    state = keras.layers.GRU(12, name="gru")(frames)
    digit = keras.layers.Dense(10, activation="softmax", name="digit")(state)
    built = keras.Model(wave, digit)
    built.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    return built


def batch():
    """Return eight clips; the seventh is silent."""
    rng = np.random.default_rng(0)
    waves = rng.normal(size=(8, 128, 1)).astype("float32") * 0.3
    waves[6] = 0.0
    return {"x": waves, "y": rng.integers(0, 10, 8).astype("int32")}
