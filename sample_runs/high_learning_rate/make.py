"""What does a learning rate of 1.0 do to Adam? A config file lost its exponent.

Run it to write model.keras and batch.npz beside this file; every run writes the same arrays.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
FEATURES = 12  # standardised readings of a bearing: vibration bands, temperature, load
FAULTS = 4


def measure(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised readings and which of four faults they show."""
    faults = rng.integers(FAULTS, size=count).astype("int32")
    signatures = np.random.default_rng(0).normal(size=(FAULTS, FEATURES))
    readings = signatures[faults] + 0.8 * rng.normal(size=(count, FEATURES))
    readings = (readings - readings.mean(axis=0)) / readings.std(axis=0)
    return readings.astype("float32"), faults


def build() -> keras.Model:
    layers = [keras.Input((FEATURES,), name="readings")]
    layers += [
        keras.layers.Dense(32, activation="leaky_relu", name=f"hidden_{i}") for i in range(1, 12)
    ]
    layers += [keras.layers.Dense(FAULTS, name="fault")]
    return keras.Sequential(layers, name="bearing_faults")


def main() -> None:
    keras.utils.set_random_seed(13)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(13)
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    model.fit(*measure(512, rng), batch_size=32, epochs=3, verbose=2)
    # The mistake: the run is resumed with 1.0 where 1e-3 was meant.
    model.optimizer.learning_rate = 1.0
    readings, faults = measure(32, rng)
    model.save(HERE / "model.keras")
    np.savez_compressed(HERE / "batch.npz", x=readings, y=faults)


if __name__ == "__main__":
    main()
