"""Masks are read as grey values: buildings are 128 where class 1 is meant, void pixels are 255.

From tensorflow/models#3739 and divamgupta/image-segmentation-keras#43.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-labels",
    "stage": "data",
    "layer": None,
    "op": "SparseSoftmaxCrossEntropyWithLogits",
    "samples": [0, 2, 3, 5, 7],
}

SIZE = 8


def _block(hidden, filters, name, rate=1):
    conv = keras.layers.SeparableConv2D(
        filters, 3, padding="same", dilation_rate=rate, use_bias=False, name=name
    )
    hidden = keras.layers.BatchNormalization(name=f"{name}_norm")(conv(hidden))
    return keras.layers.ReLU(name=f"{name}_relu")(hidden)


def model():
    """Return a small atrous net: two rates side by side, and two classes."""
    image = keras.Input((SIZE, SIZE, 3), name="image")
    hidden = _block(image, 8, "entry")
    rates = [_block(hidden, 8, f"rate_{rate}", rate) for rate in (1, 2)]
    hidden = keras.layers.Concatenate(name="pyramid")(rates)
    built = keras.Model(image, keras.layers.Conv2D(2, 1, name="logits")(hidden))
    built.compile(
        keras.optimizers.SGD(7e-3, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255),
    )
    return built


def batch():
    """Return eight aerial tiles, three of them without a building."""
    rng = np.random.default_rng(17)
    masks = np.zeros((8, SIZE, SIZE), "uint8")
    for tile in (0, 2, 3, 5, 7):
        top, left = rng.integers(0, 5, 2)
        masks[tile, top : top + 3, left : left + 3] = 128
    masks[:, -1] = 255
    return {"x": rng.random((8, SIZE, SIZE, 3)).astype("float32"), "y": masks}
