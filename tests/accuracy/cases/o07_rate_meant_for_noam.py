"""A learning rate of 2.0, a factor for Noam decay, is used as it is: the loss jumps and stays up.

From OpenNMT/OpenNMT-tf#744 and OpenNMT/OpenNMT-py#869.
"""

import keras
import numpy as np
from keras import layers

EXPECTED = {
    "outcome": "diverged",
    "cause": "high-learning-rate",
    "stage": "update",
    "samples": [],
}

LENGTH, VOCABULARY, WIDTH = 10, 40, 16


def model():
    """Return a small GPT of one block."""
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    hidden = layers.Embedding(VOCABULARY, WIDTH, name="embed")(tokens)
    normal = layers.LayerNormalization(name="norm_1")(hidden)
    read = layers.MultiHeadAttention(2, WIDTH // 2, name="attention")(
        normal, normal, use_causal_mask=True
    )
    hidden = layers.Add(name="residual_1")([hidden, read])
    normal = layers.LayerNormalization(name="norm_2")(hidden)
    wide = layers.Dense(4 * WIDTH, "gelu", name="ffn_in")(normal)
    hidden = layers.Add(name="residual_2")([hidden, layers.Dense(WIDTH, name="ffn_out")(wide)])
    logits = layers.Dense(VOCABULARY, name="lm_head")(hidden)
    built = keras.Model(tokens, logits)
    built.compile(
        keras.optimizers.Adam(learning_rate=2.0, beta_2=0.998),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return built


def batch():
    """Return sixteen texts, each shifted by one as its own target."""
    rng = np.random.default_rng(0)
    text = rng.integers(0, VOCABULARY, (16, LENGTH + 1)).astype("int32")
    return {"x": text[:, :-1], "y": text[:, 1:]}
