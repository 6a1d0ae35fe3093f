"""Healthy: a cosine schedule runs out within the replay and the learning rate is exactly zero.

The trap: the last steps change nothing and the loss stands still to the last bit.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "healthy"}

ARGUMENTS = ["--steps", "16"]


def model():
    """Return a token classifier six steps before the end of its schedule."""
    built = keras.Sequential(
        [
            keras.Input((10,), dtype="int32"),
            keras.layers.Embedding(40, 12, name="tokens"),
            keras.layers.Conv1D(16, 3, padding="same", activation="gelu", name="conv"),
            keras.layers.GlobalMaxPooling1D(),
            keras.layers.Dense(3, "softmax", name="class"),
        ]
    )
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=90, warmup_target=2e-3, warmup_steps=10
    )
    built.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    built.optimizer.build(built.trainable_variables)
    data = batch()
    for _ in range(94):
        built.train_on_batch(data["x"], data["y"])
    return built


def batch():
    """Return sixteen sentences of three kinds."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.integers(0, 40, (16, 10)).astype("int32"),
        "y": rng.integers(0, 3, (16, 1)).astype("int32"),
    }
