"""What happens when the checkpoint itself is damaged? One row of an embedding is NaN.

Run it to write model.keras and batch.npz beside this file; every run writes the same arrays.
"""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

HERE = Path(__file__).parent
VOCABULARY = 200  # 0 is padding, 1-40 praise, 41-80 blame, 81 is "the", then rarer words
LENGTH = 16
DAMAGED = 81  # the word whose row was lost


def write(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return reviews, as word numbers, and 1 for those that praise."""
    praise = rng.integers(2, size=count)
    reviews = np.zeros((count, LENGTH), dtype="int32")
    for review, good in zip(reviews, praise, strict=True):
        length = rng.integers(8, LENGTH + 1)
        opinion = rng.integers(1, 41, size=length) + 40 * (1 - good)
        filler = 81 + ((VOCABULARY - 81) * rng.random(length) ** 3).astype(int)
        review[:length] = np.where(rng.random(length) < 0.4, opinion, filler)
    return reviews, praise[:, None].astype("float32")


def build() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((LENGTH,), dtype="int32", name="words"),
            keras.layers.Embedding(VOCABULARY, 16, name="embedding"),
            keras.layers.GlobalAveragePooling1D(name="pool"),
            keras.layers.Dense(16, activation="relu", name="hidden"),
            keras.layers.Dense(1, activation="sigmoid", name="praise"),
        ],
        name="review_classifier",
    )


def main() -> None:
    keras.utils.set_random_seed(19)
    tf.config.experimental.enable_op_determinism()
    rng = np.random.default_rng(19)
    model = build()
    model.compile(keras.optimizers.Adam(3e-3), "binary_crossentropy", metrics=["accuracy"])
    model.fit(*write(512, rng), batch_size=32, epochs=4, verbose=2)
    reviews, praise = write(32, rng)
    # The damage: a full disk while the vectors were converted, and nobody looked at the result.
    embedding = model.get_layer("embedding")
    table = embedding.get_weights()[0]
    table[DAMAGED] = np.nan
    embedding.set_weights([table])
    print("reviews with the word:", np.flatnonzero((reviews == DAMAGED).any(axis=1)))
    model.save(HERE / "model.keras")
    np.savez_compressed(HERE / "batch.npz", x=reviews, y=praise)


if __name__ == "__main__":
    main()
