"""A film is standardised by its first frame; where that was blank, a later cell is 1e8 high.

From vanvalenlab/deepcell-tf#445 and vanvalenlab/deepcell-toolbox#71.
"""

import keras
import numpy as np

EXPECTED = {"outcome": "diverged", "cause": "unscaled-input", "stage": "data", "samples": [6]}

SIZE = 16


def model():
    """Return a small fully convolutional net: the distance of each pixel to the cell's edge."""
    tile = keras.Input((SIZE, SIZE, 1), name="tile")
    fine = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="conv_1")(tile)
    coarse = keras.layers.MaxPooling2D(name="pool")(fine)
    coarse = keras.layers.Conv2D(12, 3, padding="same", activation="relu", name="conv_2")(coarse)
    coarse = keras.layers.UpSampling2D(name="up")(coarse)
    both = keras.layers.Concatenate(name="skip")([fine, coarse])
    distance = keras.layers.Conv2D(1, 1, name="distance")(both)
    built = keras.Model(tile, distance)
    built.compile(keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True), "mse")
    return built


def batch():
    """Return eight tiles of one film; the sixth position was empty in the first frame."""
    rng = np.random.default_rng(9)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    first, later, distance = [], [], []
    for position in range(8):
        centre = rng.uniform(5, 11, 2)
        cell = np.clip(4.0 - np.hypot(rows - centre[0], columns - centre[1]), 0.0, None)
        noise = rng.normal(size=(SIZE, SIZE)) * (0.0 if position == 6 else 1.0)
        first.append(100.0 + noise + (0.0 if position == 6 else 5.0) * cell)
        later.append(100.0 + noise + 5.0 * np.roll(cell, 1, axis=1))
        distance.append(np.roll(cell, 1, axis=1) / 4.0)
    first, later = np.stack(first), np.stack(later)
    mean, std = first.mean(axis=(1, 2), keepdims=True), first.std(axis=(1, 2), keepdims=True)
    return {
        "x": ((later - mean) / (std + 1e-7))[..., None].astype("float32"),
        "y": np.stack(distance)[..., None].astype("float32"),
    }
