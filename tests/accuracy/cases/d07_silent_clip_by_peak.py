"""The loader divides every clip by its peak, and one clip is silent: all its samples are 0/0.

From yxlu-0102/MP-SENet#33.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "diverged", "cause": "bad-input", "stage": "data", "samples": [2]}

CLIP, WINDOW, HOP = 256, 32, 16
FRAMES = 1 + (CLIP - WINDOW) // HOP


@keras.saving.register_keras_serializable("d07")
class Spectrum(keras.layers.Layer):
    """The compressed magnitude of the short-time Fourier transform."""

    def call(self, clips):
        return tf.pow(tf.abs(tf.signal.stft(clips, WINDOW, HOP)) + 1e-5, 0.3)


@keras.saving.register_keras_serializable("d07")
class Enhancer(keras.Model):
    """Predicts for each time and frequency how much of it is speech."""

    def train_step(self, data):
        clips, mask = data
        with tf.GradientTape() as tape:
            magnitude, found = self(clips, training=True)
            loss = tf.reduce_mean(tf.square(magnitude * (found - mask)))
            loss += 0.1 * tf.reduce_mean(tf.abs(found - mask))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def model():
    clips = keras.Input((CLIP,), name="clips")
    magnitude = Spectrum(name="spectrum")(clips)
    hidden = keras.layers.Conv1D(16, 3, padding="same", activation="silu")(magnitude)
    found = keras.layers.Dense(WINDOW // 2 + 1, activation="sigmoid", name="mask")(hidden)
    built = Enhancer(clips, [magnitude, found])
    built.compile(keras.optimizers.AdamW(5e-4))
    return built


def batch():
    """Return eight noisy clips at the same peak, and the ideal masks."""
    rng = np.random.default_rng(7)
    clips = rng.normal(size=(8, CLIP)).astype("float32") * rng.uniform(0.01, 0.5, (8, 1))
    clips[2] = 0.0
    with np.errstate(invalid="ignore"):
        clips = clips / np.abs(clips).max(axis=1, keepdims=True)
    mask = rng.random((8, FRAMES, WINDOW // 2 + 1)).astype("float32")
    mask[2] = 0.0
    return {"x": clips.astype("float32"), "y": mask}
