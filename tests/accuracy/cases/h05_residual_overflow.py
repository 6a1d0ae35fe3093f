"""A residual stream trained in bfloat16 goes beyond 65504 in a deep block under mixed_float16.

From huggingface/transformers#12225 and huggingface/transformers#11076.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "low-precision-overflow",
    "stage": "forward",
    "layer": "block_3/fc2",
    "op": "MatMul",
    "samples": [],
}


@keras.saving.register_keras_serializable("h05")
class FeedForward(keras.layers.Layer):
    """A pre-norm feed-forward block; its output is added to the stream."""

    def __init__(self, width, spread, **kwargs):
        super().__init__(**kwargs)
        self.width, self.spread = width, spread
        self.norm = keras.layers.LayerNormalization(name="norm", dtype=self.dtype_policy)
        wide = {"kernel_initializer": keras.initializers.RandomNormal(stddev=spread)}
        wide["dtype"] = self.dtype_policy
        self.fc1 = keras.layers.Dense(2 * width, "gelu", name="fc1", **wide)
        self.fc2 = keras.layers.Dense(width, name="fc2", **wide)

    def build(self, shape):
        """Build the parts."""
        self.norm.build(shape)
        self.fc1.build(shape)
        self.fc2.build((*shape[:-1], 2 * self.width))

    def call(self, stream):
        """Return the stream with this block's share added."""
        return stream + self.fc2(self.fc1(self.norm(stream)))

    def get_config(self):
        """Return what the block is made of."""
        return {**super().get_config(), "width": self.width, "spread": self.spread}


def model():
    """Return a summary scorer of four blocks whose projections grew in training."""
    keras.config.set_dtype_policy("mixed_float16")
    tokens = keras.Input((10,), dtype="int32", name="article")
    stream = keras.layers.Embedding(50, 24, name="embed")(tokens)
    for index, spread in enumerate((12.0, 12.0, 12.0, 40.0)):
        stream = FeedForward(24, spread, name=f"block_{index}")(stream)
    stream = keras.layers.LayerNormalization(name="final_norm")(stream)
    pooled = keras.layers.GlobalAveragePooling1D(name="pool")(stream)
    score = keras.layers.Dense(1, dtype="float32", name="score")(pooled)
    built = keras.Model(tokens, score)
    built.compile(keras.optimizers.Adam(1e-4), "mse")
    return built


def batch():
    """Return eight articles with their scores."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.integers(0, 50, (8, 10)).astype("int32"),
        "y": rng.random((8, 1)).astype("float32"),
    }
