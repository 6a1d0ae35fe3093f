"""The fully masked samples are dropped before the loss, which is finite; 0 * NaN comes back.

From pytorch/pytorch#41508 and huggingface/transformers#15326.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "masked-softmax",
    "stage": "forward",
    "layer": "pool",
    "op": "Softmax",
    "samples": [2, 7],
}

LENGTH, WIDTH = 6, 8


@keras.saving.register_keras_serializable("a01b")
class AttentionPool(keras.layers.Layer):
    """Weighs the words of a sentence by a learned score."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.score = keras.layers.Dense(1, name="score")

    def build(self, shape):
        """Build the scorer."""
        self.score.build(shape)

    def call(self, words, attend):
        """Return one vector for each sentence."""
        scores = ops.where(attend, self.score(words)[..., 0], -float("inf"))
        return ops.einsum("bl,bld->bd", ops.softmax(scores, axis=-1), words)


@keras.saving.register_keras_serializable("a01b")
class Reader(keras.Model):
    """Regresses the tone of a sentence; empty ones are left out of the loss."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = keras.layers.Embedding(30, WIDTH, name="embed")
        self.pool = AttentionPool(name="pool")
        self.tone = keras.layers.Dense(1, name="tone")

    def call(self, tokens):
        """Return one number for each sentence."""
        return self.tone(self.pool(self.embed(tokens), ops.not_equal(tokens, 0)))

    def compute_loss(self, x, y, y_pred, *_):
        """Return the mean squared error over the sentences that hold a word."""
        kept = ops.where(ops.any(ops.not_equal(x, 0), axis=-1))[0]
        return ops.mean(ops.square(ops.take(y - y_pred, kept, axis=0)))


def model():
    """Return the regression."""
    built = Reader(name="reader")
    built(np.zeros((1, LENGTH), "int32"))
    built.compile(keras.optimizers.Adam(1e-3))
    return built


def batch():
    """Return ten sentences; two hold no word at all."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 30, (10, LENGTH)).astype("int32")
    tokens[0, 4:] = tokens[5, 2:] = tokens[2] = tokens[7] = 0
    return {"x": tokens, "y": rng.normal(size=(10, 1)).astype("float32")}
