"""What kills a siamese network whose distance is a plain square root? A pair of twice one picture.

Run it to write model.keras and batch.npz beside this file; every run writes the same arrays.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from custom import contrastive_loss

HERE = Path(__file__).parent
SIDE = 12
WRITERS = 6
TWICE = 4  # index of the pair whose two pictures are one file


def sign(writer: int, rng: np.random.Generator) -> np.ndarray:
    """Return one signature, a looping stroke in 0..1, a little different each time."""
    a, b, lean = np.random.default_rng(writer).uniform((1, 1, -2), (3, 3, 2))
    t = np.linspace(0, 2 * np.pi, 80)
    wobble = 0.15 * rng.normal(size=2)
    column = 5.5 + 4.5 * np.sin(a * t + lean + wobble[0])
    row = 5.5 + 4.0 * np.sin(b * t + wobble[1])
    picture = np.zeros((SIDE, SIDE))
    picture[np.round(row).astype(int), np.round(column).astype(int)] = rng.uniform(0.7, 1.0)
    return picture[..., None].astype("float32")


def collect(count: int, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return pairs of signatures and, for each pair, 1 when one writer wrote both."""
    same = (np.arange(count) % 2 == 0).astype("float32")
    left = rng.integers(WRITERS, size=count)
    right = np.where(same == 1, left, (left + rng.integers(1, WRITERS, size=count)) % WRITERS)
    pairs = {
        "left": np.stack([sign(writer, rng) for writer in left]),
        "right": np.stack([sign(writer, rng) for writer in right]),
    }
    return pairs, same[:, None]


def build() -> keras.Model:
    encoder = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1)),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv_1"),
            keras.layers.Conv2D(16, 3, activation="relu", name="conv_2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(8, name="embedding"),
        ],
        name="encoder",
    )
    left = keras.Input((SIDE, SIDE, 1), name="left")
    right = keras.Input((SIDE, SIDE, 1), name="right")
    gap = encoder(left) - encoder(right)
    # The mistake: the root of 0 is 0, but its slope is infinite, and infinity times 0 is NaN.
    distance = keras.ops.sqrt(keras.ops.sum(keras.ops.square(gap), axis=-1, keepdims=True))
    return keras.Model({"left": left, "right": right}, distance, name="signature_check")


def main() -> None:
    keras.utils.set_random_seed(17)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(17)
    model = build()
    model.compile(keras.optimizers.Adam(1e-3), contrastive_loss)
    model.fit(*collect(512, rng), batch_size=32, epochs=4, verbose=2)
    pairs, same = collect(24, rng)
    pairs["right"][TWICE] = pairs["left"][TWICE]
    model.save(HERE / "model.keras")
    np.savez_compressed(
        HERE / "batch.npz", **{f"x/{name}": pictures for name, pictures in pairs.items()}, y=same
    )


if __name__ == "__main__":
    main()
