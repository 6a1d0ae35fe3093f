"""What does a learning rate of 1.0 do to plain gradient descent? It overshoots, further each time.

Run it to write model.keras and batch.npz beside this file; every run writes the same arrays.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
FEATURES = 10  # standardised: weather, hour, weekday


def observe(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return standardised weather and the electricity demand it goes with, standardised too."""
    weather = rng.normal(size=(count, FEATURES))
    weights = np.random.default_rng(1).normal(size=FEATURES)
    demand = weather @ weights + np.abs(weather[:, 0]) + 0.2 * rng.normal(size=count)
    weather = (weather - weather.mean(axis=0)) / weather.std(axis=0)
    demand = (demand - demand.mean()) / demand.std()
    return weather.astype("float32"), demand[:, None].astype("float32")


def build() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((FEATURES,), name="weather"),
            keras.layers.Dense(64, activation="elu", name="hidden_1"),
            keras.layers.Dense(64, activation="elu", name="hidden_2"),
            keras.layers.Dense(1, name="demand"),
        ],
        name="demand_forecast",
    )


def main() -> None:
    keras.utils.set_random_seed(14)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(14)
    model = build()
    model.compile(keras.optimizers.SGD(0.01), "mse")
    model.fit(*observe(512, rng), batch_size=32, epochs=4, verbose=2)
    # The mistake: a sweep over learning rates that begins at 1.0.
    model.optimizer.learning_rate = 1.0
    weather, demand = observe(32, rng)
    model.save(HERE / "model.keras")
    np.savez_compressed(HERE / "batch.npz", x=weather, y=demand)


if __name__ == "__main__":
    main()
