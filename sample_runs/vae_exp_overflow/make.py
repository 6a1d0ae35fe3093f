"""What kills an autoencoder whose log-variance nothing bounds? A picture unlike all it has seen.

Run it to write model.keras and batch.npz beside this file. Seeded: every run writes the same arrays.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from custom import VariationalAutoencoder

HERE = Path(__file__).parent
SIDE = 16
OVEREXPOSED = 7  # index of the frame in which the shutter stuck: white from edge to edge
EPOCHS = 20


def observe(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return frames of the night sky, in 0..1: black, with a few stars."""
    frames = np.zeros((count, SIDE, SIDE))
    for frame in frames:
        for row, column in rng.integers(1, SIDE - 1, size=(rng.integers(3, 8), 2)):
            frame[row, column] = rng.uniform(0.6, 1.0)
            frame[row - 1 : row + 2, column] += 0.2
            frame[row, column - 1 : column + 2] += 0.2
    return np.clip(frames, 0, 1)[..., None].astype("float32")


def main() -> None:
    keras.utils.set_random_seed(24)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(24)
    model = VariationalAutoencoder(SIDE, codes=6, name="night_sky")
    model.build((None, SIDE, SIDE, 1))
    model.compile(keras.optimizers.Adam(2e-3))
    model.fit(observe(512, rng), batch_size=32, epochs=EPOCHS, verbose=2)
    frames = observe(24, rng)
    frames[OVEREXPOSED] = 1.0
    print("highest log-variance of each frame:", np.round(model.encode(frames)[1].numpy().max(axis=1), 1))
    model.save(HERE / "model.keras")
    np.savez_compressed(HERE / "batch.npz", x=frames)


if __name__ == "__main__":
    main()
