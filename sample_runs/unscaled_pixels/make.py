"""What happens when 16-bit pictures meet a network trained on pictures in 0..1? It overshoots.

Run it to write model.keras and batch.npz beside this file; every run writes the same arrays.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
SIDE = 16


def grow(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures of seedlings from above, in 0..1, and the leaf area of each, standardised."""
    row, column = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    radius = rng.uniform(2, 6, size=(count, 1, 1))
    leaves = rng.uniform(0.6, 1.0, size=(count, 1, 1)) * (np.hypot(row, column) < radius)
    pictures = 0.15 + 0.7 * leaves + 0.05 * rng.normal(size=leaves.shape)
    area = (radius[:, :, 0] ** 2 - 17.3) / 10.6
    return np.clip(pictures, 0, 1)[..., None].astype("float32"), area.astype("float32")


def build() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1), name="picture"),
            keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv_1"),
            keras.layers.Conv2D(16, 3, strides=2, activation="relu", name="conv_2"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(16, activation="relu", name="hidden"),
            keras.layers.Dense(1, name="area"),
        ],
        name="leaf_area",
    )


def main() -> None:
    keras.utils.set_random_seed(22)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(22)
    model = build()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    model.fit(*grow(512, rng), batch_size=32, epochs=5, verbose=2)
    pictures, area = grow(32, rng)
    # The mistake: the new camera's pictures are read as they are, 0..65535, not divided by 65535.
    pictures = np.round(pictures * 65_535)
    model.save(HERE / "model.keras")
    np.savez_compressed(HERE / "batch.npz", x=pictures, y=area)


if __name__ == "__main__":
    main()
