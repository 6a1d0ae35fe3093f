"""Pure float16: Adam's epsilon of 1e-8 is 0 there, and a token that never occurs updates by 0/0.

From tensorflow/tensorflow#7226 and afiaka87/glide-finetune#5.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "low-precision-underflow",
    "stage": "update",
    "layer": None,
    "op": "RealDiv",
    "samples": [],
}

VOCABULARY = 40


def model():
    """Return a sentiment classifier that holds its weights in float16 too."""
    keras.config.set_dtype_policy("float16")
    built = keras.Sequential(
        [
            keras.Input((12,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY, 16, name="tokens"),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(16, "relu", name="hidden"),
            keras.layers.Dense(2, name="sentiment"),
        ]
    )
    built.compile(
        keras.optimizers.Adam(1e-3, epsilon=1e-8),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return built


def batch():
    """Return sixteen sentences; the last ten words of the vocabulary stand in none of them."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.integers(1, VOCABULARY - 10, (16, 12)).astype("int32"),
        "y": rng.integers(0, 2, (16, 1)).astype("int32"),
    }
