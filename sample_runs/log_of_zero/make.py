"""What kills a keyword spotter that takes the log of its spectrogram? One muted clip.

Run it to write model.keras and batch.npz beside this file; every run writes the same arrays.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
RATE = 8_000  # samples per second
LENGTH = 1_024  # samples per clip, an eighth of a second
SWEEPS = {"yes": (2_200, 3_400), "no": (600, 350), "up": (500, 1_500), "down": (1_600, 450)}
MUTED = 5  # index of the clip recorded with the microphone off


def say(word: str, rng: np.random.Generator) -> np.ndarray:
    """Return one 16-bit recording of a word: its two-harmonic sweep, a little off, plus noise."""
    start, stop = (hz * rng.uniform(0.9, 1.1) for hz in SWEEPS[word])
    phase = 2 * np.pi * np.cumsum(np.linspace(start, stop, LENGTH)) / RATE
    voice = (np.sin(phase) + 0.3 * np.sin(2 * phase)) * np.hanning(LENGTH)
    clip = rng.uniform(0.1, 0.4) * voice + 0.01 * rng.normal(size=LENGTH)
    return (np.round(clip * 32_767) / 32_767).astype("float32")


def record(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(len(SWEEPS), size=count).astype("int32")
    words = list(SWEEPS)
    return np.stack([say(words[label], rng) for label in labels]), labels


def build() -> keras.Model:
    audio = keras.Input((LENGTH,), name="audio")
    real, imaginary = keras.ops.stft(audio, sequence_length=64, sequence_stride=32, fft_length=64)
    power = keras.ops.square(real) + keras.ops.square(imaginary)
    # The mistake: the power of digital silence is exactly 0, and nothing keeps the log from it.
    x = keras.ops.log(power)
    x = keras.layers.Conv1D(16, 5, strides=2, activation="relu", name="conv_1")(x)
    x = keras.layers.Conv1D(16, 5, strides=2, activation="relu", name="conv_2")(x)
    x = keras.layers.GlobalAveragePooling1D(name="pool")(x)
    scores = keras.layers.Dense(len(SWEEPS), activation="softmax", name="keyword")(x)
    return keras.Model(audio, scores, name="keyword_spotter")


def main() -> None:
    keras.utils.set_random_seed(11)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(11)
    model = build()
    model.compile(
        keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    clips, labels = record(256, rng)
    model.fit(clips, labels, batch_size=32, epochs=4, verbose=2)
    clips, labels = record(16, rng)
    clips[MUTED] = 0.0
    model.save(HERE / "model.keras")
    np.savez_compressed(HERE / "batch.npz", x=clips, y=labels)


if __name__ == "__main__":
    main()
