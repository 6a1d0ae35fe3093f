"""Which models is the cost measured on?"""

from __future__ import annotations

from typing import Any

import numpy as np


def mlp() -> tuple[Any, dict[str, Any]]:
    """Return 50 dense layers of 512 units, and a batch of 64."""
    import keras

    layers = [keras.layers.Dense(512, "relu") for _ in range(50)]
    model = keras.Sequential([keras.Input((512,)), *layers, keras.layers.Dense(10)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    return model, {"x": rng.random((64, 512), np.float32), "y": rng.integers(10, size=64)}


def resnet50() -> tuple[Any, dict[str, Any]]:
    """Return ResNet50 on 160 x 160 pixels, and a batch of 8."""
    import keras

    model = keras.applications.ResNet50(weights=None, input_shape=(160, 160, 3), classes=10)
    model.compile("adam", "sparse_categorical_crossentropy")
    rng = np.random.default_rng(0)
    return model, {"x": rng.random((8, 160, 160, 3), np.float32), "y": rng.integers(10, size=8)}


def transformer() -> tuple[Any, dict[str, Any]]:
    """Return six transformer layers of width 256 on 64 tokens, and a batch of 16."""
    import keras

    tokens = keras.Input((64,), dtype="int32")
    x = keras.layers.Embedding(1000, 256)(tokens)
    for _ in range(6):
        attended = keras.layers.MultiHeadAttention(8, 32)(x, x)
        x = keras.layers.LayerNormalization()(x + attended)
        hidden = keras.layers.Dense(256)(keras.layers.Dense(1024, "gelu")(x))
        x = keras.layers.LayerNormalization()(x + hidden)
    model = keras.Model(tokens, keras.layers.Dense(1000)(x))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    words = rng.integers(1000, size=(16, 65)).astype("int32")
    return model, {"x": words[:, :-1], "y": words[:, 1:]}


def deep(layers: int) -> tuple[Any, dict[str, Any]]:
    """Return that many dense layers of 32 units, called one after the other."""
    import keras

    class Deep(keras.Model):  # type: ignore[misc]
        """A thousand layers in a functional graph exceed Python's recursion when it is built."""

        def __init__(self) -> None:
            super().__init__()
            self.steps = [keras.layers.Dense(32, "tanh") for _ in range(layers)]

        def call(self, x: Any) -> Any:
            for step in self.steps:
                x = step(x)
            return x

    model = Deep()
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).random((32, 32), np.float32)
    model(x)
    return model, {"x": x, "y": x}


def wide(megabytes: int) -> tuple[Any, dict[str, Any]]:
    """Return one dense layer whose kernel is a tensor of that many MB."""
    import keras

    columns = megabytes * 1_000_000 // (4 * 1_000)
    model = keras.Sequential([keras.Input((1_000,)), keras.layers.Dense(columns)])
    model.compile("sgd", "mse")
    rng = np.random.default_rng(0)
    return model, {"x": rng.random((2, 1_000), np.float32), "y": np.zeros((2, columns), "float32")}


MODELS = {"MLP 50 x 512": mlp, "ResNet50": resnet50, "transformer": transformer}
