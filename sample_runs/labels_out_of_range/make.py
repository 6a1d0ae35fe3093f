"""What happens when one label names a class that the model does not have? Ten classes, label 10.

Run it to write model.keras and batch.npz beside this file; every run writes the same arrays.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
SIDE = 16
# Which of the seven bars of a pocket calculator's display are lit for the digits 0 to 9.
LIT = ("abcdef", "bc", "abdeg", "abcdg", "bcfg", "acdfg", "acdefg", "abc", "abcdefg", "abcdfg")
BARS = {  # rows and columns that a bar covers
    "a": (slice(2, 4), slice(5, 11)),
    "b": (slice(3, 8), slice(10, 12)),
    "c": (slice(8, 13), slice(10, 12)),
    "d": (slice(12, 14), slice(5, 11)),
    "e": (slice(8, 13), slice(4, 6)),
    "f": (slice(3, 8), slice(4, 6)),
    "g": (slice(7, 9), slice(5, 11)),
}
SMUDGED = 13  # index of the meter that nobody could read: filed under "unreadable", class 10


def photograph(digit: int, rng: np.random.Generator) -> np.ndarray:
    """Return a picture, in 0..1, of one digit of a meter: moved, dimmed and noisy."""
    picture = np.zeros((SIDE, SIDE))
    for bar in LIT[digit]:
        picture[BARS[bar]] = rng.uniform(0.6, 1.0)
    picture = np.roll(picture, rng.integers(-2, 3, size=2), axis=(0, 1))
    noisy = np.clip(picture + 0.1 * rng.normal(size=picture.shape), 0, 1)
    return np.round(noisy * 255) / 255


def read_meters(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    digits = rng.integers(10, size=count)
    pictures = np.stack([photograph(digit, rng) for digit in digits])[..., None]
    return pictures.astype("float32"), digits.astype("int32")


def build() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1), name="picture"),
            keras.layers.Conv2D(8, 3, activation="relu", name="conv_1"),
            keras.layers.MaxPooling2D(name="pool_1"),
            keras.layers.Conv2D(16, 3, activation="relu", name="conv_2"),
            keras.layers.MaxPooling2D(name="pool_2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(10, name="digit"),
        ],
        name="meter_reader",
    )


def main() -> None:
    keras.utils.set_random_seed(16)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(16)
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, metrics=["accuracy"])
    model.fit(*read_meters(512, rng), batch_size=32, epochs=10, verbose=2)
    pictures, digits = read_meters(32, rng)
    # The mistake: the labelling tool has an eleventh button, the last layer has ten units.
    digits[SMUDGED] = 10
    model.save(HERE / "model.keras")
    np.savez_compressed(HERE / "batch.npz", x=pictures, y=digits)


if __name__ == "__main__":
    main()
