"""A mask of float16's lowest number plus an ordinary score is -inf: a padded query sees nothing.

Query and key biases shift every score by the same amount, which a softmax in float32 never shows.
From huggingface/transformers#17306 and huggingface/transformers#17433.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "low-precision-overflow",
    "stage": "forward",
    "layer": "decoder_attention",
    "op": "AddV2",
    "samples": [2, 5],
}

LENGTH, WIDTH, VOCABULARY = 8, 16, 30


@keras.saving.register_keras_serializable("h03")
class CausalAttention(keras.layers.Layer):
    """One head; masked pairs get the lowest number of the dtype added to their score."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.query, self.key, self.value = (
            keras.layers.Dense(
                width,
                bias_initializer=keras.initializers.Constant(bias),
                dtype=self.dtype_policy,
                name=name,
            )
            for name, bias in (("query", 4.0), ("key", -4.0), ("value", 0.0))
        )

    def build(self, shapes):
        """Build the three projections."""
        for dense in (self.query, self.key, self.value):
            dense.build(shapes[0])

    def call(self, inputs):
        """Return what each position reads from those before it."""
        hidden, attend = inputs
        scores = ops.matmul(self.query(hidden), ops.swapaxes(self.key(hidden), 1, 2))
        scores = scores / np.sqrt(self.width)
        allowed = ops.cast(ops.tril(ops.ones((LENGTH, LENGTH))), scores.dtype)
        allowed = allowed * ops.cast(attend, scores.dtype)[:, None, :]
        scores = scores + (1.0 - allowed) * float(np.finfo("float16").min)
        return ops.matmul(ops.softmax(scores), self.value(hidden))

    def get_config(self):
        """Return what the layer is made of."""
        return {**super().get_config(), "width": self.width}


def model():
    """Return a language model of one decoder block in float16."""
    keras.config.set_dtype_policy("float16")
    tokens = keras.Input((LENGTH,), dtype="int32", name="input_ids")
    attend = keras.Input((LENGTH,), dtype="int32", name="attention_mask")
    hidden = keras.layers.Embedding(VOCABULARY, WIDTH, name="embed")(tokens)
    read = CausalAttention(WIDTH, name="decoder_attention")([hidden, attend])
    hidden = keras.layers.LayerNormalization(name="norm")(hidden + read)
    logits = keras.layers.Dense(VOCABULARY, name="lm_head")(hidden)
    built = keras.Model({"input_ids": tokens, "attention_mask": attend}, logits)
    built.compile(
        keras.optimizers.SGD(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return built


def batch():
    """Return eight prompts; two are shorter and padded on the left."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, VOCABULARY, (8, LENGTH)).astype("int32")
    attend = np.ones((8, LENGTH), "int32")
    attend[2, :3] = attend[5, :1] = 0
    return {
        "input_ids": tokens * attend,
        "attention_mask": attend,
        "y": rng.integers(1, VOCABULARY, (8, LENGTH)).astype("int32"),
    }
