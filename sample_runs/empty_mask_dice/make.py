"""What does a Dice loss without smoothing make of a slide with no cell on it? 0/0.

Run it to write model.keras and batch.npz beside this file; every run writes the same arrays.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from custom import dice_loss

HERE = Path(__file__).parent
SIDE = 16
BLANK = 3  # index of the slide without a cell


def stain(cells: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return one slide, in 0..1, and the mask of its cells."""
    row, column = np.mgrid[:SIDE, :SIDE]
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    for _ in range(cells):
        y, x = rng.uniform(3, SIDE - 3, size=2)
        mask |= np.hypot(row - y, column - x) < rng.uniform(1.5, 3.0)
    slide = 0.2 + 0.5 * mask + 0.05 * rng.normal(size=mask.shape)
    return np.clip(slide, 0, 1), mask


def prepare(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    slides, masks = zip(*(stain(rng.integers(1, 4), rng) for _ in range(count)), strict=True)
    return (
        np.stack(slides)[..., None].astype("float32"),
        np.stack(masks)[..., None].astype("float32"),
    )


def build() -> keras.Model:
    slide = keras.Input((SIDE, SIDE, 1), name="slide")
    fine = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="down_1")(slide)
    coarse = keras.layers.MaxPooling2D(name="pool")(fine)
    coarse = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="down_2")(coarse)
    coarse = keras.layers.UpSampling2D(name="unpool")(coarse)
    x = keras.layers.Concatenate(name="skip")([fine, coarse])
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="up_1")(x)
    # A hard sigmoid, for the microscope's small processor: unlike the smooth one it reaches 0.
    cells = keras.layers.Conv2D(1, 1, activation="hard_sigmoid", name="cells")(x)
    return keras.Model(slide, cells, name="cell_finder")


def main() -> None:
    keras.utils.set_random_seed(18)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(18)
    model = build()
    model.compile(keras.optimizers.Adam(5e-3), dice_loss)
    model.fit(*prepare(320, rng), batch_size=16, epochs=8, verbose=2)
    slides, masks = prepare(16, rng)
    slides[BLANK, ..., 0], masks[BLANK, ..., 0] = stain(0, rng)
    print("highest value on the blank slide:", model.predict(slides, verbose=0)[BLANK].max())
    model.save(HERE / "model.keras")
    np.savez_compressed(HERE / "batch.npz", x=slides, y=masks)


if __name__ == "__main__":
    main()
