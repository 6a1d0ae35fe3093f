"""What kills an autoencoder whose log-variance nothing bounds? A picture unlike all it has seen.

Run it to write model.keras and batch.npz beside this file; every run writes the same arrays.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from custom import VariationalAutoencoder

HERE = Path(__file__).parent
SIDE = 14
OVEREXPOSED = 7  # index of the frame in which the shutter stuck: white from edge to edge
EPOCHS = 60


def observe(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return frames of one bright star, in 0..1, that drifts and flickers; a row per frame."""
    row, column = np.mgrid[:SIDE, :SIDE]
    y, x = rng.uniform(2, SIDE - 3, size=(2, count, 1, 1))
    glow = rng.uniform(0.5, 1.0, size=(count, 1, 1)) * np.exp(-((row - y) ** 2 + (column - x) ** 2))
    frames = glow + 0.01 * rng.normal(size=glow.shape) + 0.05
    return np.clip(frames, 0, 1).reshape(count, -1).astype("float32")


def main() -> None:
    keras.utils.set_random_seed(24)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(24)
    model = VariationalAutoencoder(SIDE * SIDE, codes=4, name="star_watch")
    model.build((None, SIDE * SIDE))
    model.compile(keras.optimizers.Adam(2e-3))
    model.fit(observe(512, rng), batch_size=32, epochs=EPOCHS, verbose=2)
    frames = observe(24, rng)
    frames[OVEREXPOSED] = 1.0
    log_var = model.decode(model.encode(frames)[0])[1].numpy()
    print("lowest log-variance of each frame:", np.round(log_var.min(axis=1)))
    model.save(HERE / "model.keras")
    np.savez_compressed(HERE / "batch.npz", x=frames)


if __name__ == "__main__":
    main()
