"""What kills a classifier whose cross-entropy is written by hand? One very certain prediction.

Run it to write model.keras and batch.npz beside this file; every run writes the same arrays.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from custom import categorical_cross_entropy

HERE = Path(__file__).parent
SIDE = 16
FLASH = 9  # index of the part photographed with the flash on
EPOCHS = 80  # long after every picture is told right, the logits still grow apart


def photograph(kind: int, contrast: float, rng: np.random.Generator) -> np.ndarray:
    """Return a picture, in 0..1, of a bolt (bar), a washer (ring) or a nut (square)."""
    row, column = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2 - rng.uniform(-1.5, 1.5, (2, 1, 1))
    reach = np.maximum(abs(row), abs(column))
    shape = (
        (abs(column) < 1.5) & (abs(row) < 6.0),
        abs(np.hypot(row, column) - 4.5) < 1.0,
        reach < 4.0,
    )[kind]
    return np.clip(contrast * shape + 0.01 * rng.normal(size=shape.shape), 0, 1)


def shoot(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    kinds = np.arange(count) % 3
    pictures = [photograph(kind, rng.uniform(0.1, 0.2), rng) for kind in kinds]
    return np.stack(pictures)[..., None].astype("float32"), np.eye(3, dtype="float32")[kinds]


def build() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1), name="picture"),
            keras.layers.Conv2D(8, 3, activation="relu", name="conv_1"),
            keras.layers.MaxPooling2D(name="pool_1"),
            keras.layers.Conv2D(16, 3, activation="relu", name="conv_2"),
            keras.layers.MaxPooling2D(name="pool_2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(3, activation="softmax", name="part"),
        ],
        name="part_sorter",
    )


def main() -> None:
    keras.utils.set_random_seed(12)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(12)
    model = build()
    model.compile(keras.optimizers.Adam(5e-3), categorical_cross_entropy, metrics=["accuracy"])
    model.fit(*shoot(300, rng), batch_size=20, epochs=EPOCHS, verbose=2)
    pictures, kinds = shoot(24, rng)
    pictures[FLASH] = photograph(int(kinds[FLASH].argmax()), 1.0, rng)[..., None]
    scores = model.predict(pictures, verbose=0)
    print("pictures with a score of exactly 0:", np.flatnonzero((scores == 0).any(axis=1)))
    model.save(HERE / "model.keras")
    np.savez_compressed(HERE / "batch.npz", x=pictures, y=kinds)


if __name__ == "__main__":
    main()
