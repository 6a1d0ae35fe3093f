"""A resumed SGD holds NaN in one row of a momentum; loss and gradients of the step are finite.

The family of tensorflow/tensorflow#74879.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "corrupt-optimizer-state",
    "stage": "checkpoint",
    "samples": [],
}
HELD_OUT = True


def model():
    """Return a classifier of tokens after three steps, one row of whose momentum was lost."""
    built = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(20, 8, name="tokens"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, "softmax", name="class"),
        ]
    )
    built.compile(keras.optimizers.SGD(0.01, momentum=0.9), "sparse_categorical_crossentropy")
    data = batch()
    for _ in range(3):
        built.train_on_batch(data["x"], data["y"])
    for slot in built.optimizer.variables:
        if "tokens" in slot.path:
            broken = np.array(slot.value)
            broken[7] = np.nan
            slot.assign(broken)
    return built


def batch():
    """Return twelve short texts."""
    rng = np.random.default_rng(40)
    return {
        "x": rng.integers(0, 20, (12, 6)).astype("int32"),
        "y": rng.integers(0, 3, (12, 1)).astype("int32"),
    }
