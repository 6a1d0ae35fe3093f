"""The loader encodes text lines as log(height / anchor); a line of height 0 is minus infinity.

From xuannianz/keras-ctpn#1 and matterport/Mask_RCNN#159.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "diverged", "cause": "bad-labels", "stage": "data", "samples": [1]}

WIDTH, ANCHOR = 10, 16.0


def model():
    """Return a text detector: columns of the image in order, read both ways, and two heads."""
    image = keras.Input((16, 4 * WIDTH, 1), name="image")
    hidden = keras.layers.Conv2D(8, (16, 4), (16, 4), activation="relu", name="columns")(image)
    hidden = keras.layers.Reshape((WIDTH, 8), name="sequence")(hidden)
    hidden = keras.layers.Bidirectional(
        keras.layers.GRU(6, return_sequences=True, name="gru"), name="both_ways"
    )(hidden)
    score = keras.layers.Dense(1, activation="sigmoid", name="score")(hidden)
    vertical = keras.layers.Dense(2, name="vertical")(hidden)
    built = keras.Model(image, [score, vertical])
    built.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        loss=["binary_crossentropy", keras.losses.Huber()],
        loss_weights=[1.0, 2.0],
    )
    return built


def batch():
    """Return six images of text lines: is there text in a column, and where does it stand?"""
    rng = np.random.default_rng(29)
    height = rng.integers(8, 30, (6, WIDTH)).astype("float32")
    height[1, 7] = 0.0
    with np.errstate(divide="ignore"):
        vertical = np.stack([rng.normal(size=(6, WIDTH)), np.log(height / ANCHOR)], axis=-1)
    return {
        "x": rng.random((6, 16, 4 * WIDTH, 1)).astype("float32"),
        "y/score": (rng.random((6, WIDTH, 1)) < 0.5).astype("float32"),
        "y/vertical": vertical.astype("float32"),
    }
