"""What does a deep plain network do with weights drawn too wide? It overflows on its way forward.

Run it to write model.keras and batch.npz beside this file; every run writes the same arrays.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
FEATURES = 16
DEPTH = 40


def listen(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised readings of an engine and 1 where it is about to fail."""
    readings = rng.normal(size=(count, FEATURES))
    failing = readings[:, :4].sum(axis=1, keepdims=True) > 1.0
    return readings.astype("float32"), failing.astype("float32")


def build() -> keras.Model:
    # The mistake: N(0, 4) where relu layers 16 wide want N(0, sqrt(2/16)).
    wide = keras.initializers.RandomNormal(stddev=4.0, seed=23)
    layers = [keras.Input((FEATURES,), name="readings")]
    layers += [
        keras.layers.Dense(16, "relu", kernel_initializer=wide.clone(), name=f"hidden_{i}")
        for i in range(1, DEPTH + 1)
    ]
    layers += [keras.layers.Dense(1, activation="sigmoid", name="failing")]
    return keras.Sequential(layers, name="engine_watch")


def main() -> None:
    keras.utils.set_random_seed(23)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(23)
    model = build()
    model.compile(keras.optimizers.SGD(0.01), "binary_crossentropy")
    readings, failing = listen(32, rng)
    model.save(HERE / "model.keras")
    np.savez_compressed(HERE / "batch.npz", x=readings, y=failing)


if __name__ == "__main__":
    main()
