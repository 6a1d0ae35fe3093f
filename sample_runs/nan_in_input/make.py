"""What does a regressor make of cells that were left empty in the table? NaN, everywhere.

Run it to write model.keras and batch.npz beside this file; every run writes the same arrays.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
COLUMNS = ("area", "rooms", "age", "distance", "floor", "energy", "noise", "parking")
NO_ENERGY_RATING = (6, 19)  # two flats whose seller did not hand in the certificate


def survey(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return flats, one standardised column per property, and their rent, standardised."""
    flats = rng.normal(size=(count, len(COLUMNS)))
    flats[:, 1] = 0.8 * flats[:, 0] + 0.6 * flats[:, 1]  # larger flats have more rooms
    rent = flats @ [0.9, 0.2, -0.3, -0.4, 0.1, 0.3, -0.2, 0.1] + 0.2 * flats[:, 0] ** 2
    rent = (rent - 0.2) / 1.4 + 0.1 * rng.normal(size=count)
    return flats.astype("float32"), rent[:, None].astype("float32")


def build() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((len(COLUMNS),), name="flat"),
            keras.layers.Dense(32, activation="relu", name="hidden_1"),
            keras.layers.Dense(16, activation="relu", name="hidden_2"),
            keras.layers.Dense(1, name="rent"),
        ],
        name="rent_estimate",
    )


def main() -> None:
    keras.utils.set_random_seed(15)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(15)
    model = build()
    model.compile(keras.optimizers.Adam(3e-3), "mse")
    model.fit(*survey(512, rng), batch_size=32, epochs=4, verbose=2)
    flats, rent = survey(32, rng)
    # The mistake: the join left the cells empty, and standardising keeps NaN as NaN.
    for flat in NO_ENERGY_RATING:
        flats[flat, COLUMNS.index("energy")] = np.nan
    flats[NO_ENERGY_RATING[1], COLUMNS.index("noise")] = np.nan
    model.save(HERE / "model.keras")
    np.savez_compressed(HERE / "batch.npz", x=flats, y=rent)


if __name__ == "__main__":
    main()
