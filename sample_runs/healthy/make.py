"""What does the doctor say of a run that is well? Nothing is wrong: the step to compare with.

Run it to write model.keras and batch.npz beside this file; every run writes the same arrays.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
SIDE = 16
FABRICS = ("stripes", "checks", "dots", "plain")


def weave(fabric: str, rng: np.random.Generator) -> np.ndarray:
    """Return a colour picture of a piece of cloth, in -1..1; some are nearly black or white."""
    row, column = np.mgrid[:SIDE, :SIDE] + rng.uniform(0, 4, size=(2, 1, 1))
    wave = 2 * np.pi / rng.uniform(3.5, 5.5)
    pattern = {
        "stripes": np.sin(wave * row),
        "checks": np.sign(np.sin(wave * row) * np.sin(wave * column)),
        "dots": 2.0 * (np.cos(wave * row) + np.cos(wave * column) > 1.0) - 1.0,
        "plain": np.zeros((SIDE, SIDE)),
    }[fabric]
    colour = rng.uniform(-0.9, 0.9, size=3)
    cloth = colour + rng.uniform(0.1, 0.5) * pattern[..., None]
    return np.clip(cloth + 0.05 * rng.normal(size=cloth.shape), -1, 1)


def cut(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    kinds = rng.integers(len(FABRICS), size=count)
    pictures = np.stack([weave(FABRICS[kind], rng) for kind in kinds])
    return (np.round(pictures * 127) / 127).astype("float32"), kinds.astype("int32")


def build() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 3), name="picture"),
            keras.layers.Conv2D(8, 3, use_bias=False, name="conv_1"),
            keras.layers.BatchNormalization(name="norm_1"),
            keras.layers.ReLU(name="relu_1"),
            keras.layers.MaxPooling2D(name="pool_1"),
            keras.layers.Conv2D(16, 3, activation="relu", name="conv_2"),
            keras.layers.GlobalAveragePooling2D(name="pool_2"),
            keras.layers.Dropout(0.2, name="dropout"),
            keras.layers.Dense(len(FABRICS), activation="softmax", name="fabric"),
        ],
        name="fabric_classifier",
    )


def main() -> None:
    keras.utils.set_random_seed(20)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(20)
    model = build()
    model.compile(
        keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(*cut(512, rng), batch_size=32, epochs=12, verbose=2)
    pictures, kinds = cut(32, rng)
    model.save(HERE / "model.keras")
    np.savez_compressed(HERE / "batch.npz", x=pictures, y=kinds)


if __name__ == "__main__":
    main()
