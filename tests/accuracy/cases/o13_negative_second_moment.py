"""One element of Adam's second moment is negative: its square root is NaN, all else is finite.

From tensorflow/tensorflow#74879.
"""

import keras
import numpy as np
from keras import layers

EXPECTED = {
    "outcome": "diverged",
    "cause": "corrupt-optimizer-state",
    "stage": "checkpoint",
    "layer": None,
    "op": "Sqrt",
    "samples": [],
}


def model():
    """Return a U-Net of two levels, resumed from a checkpoint with a bad slot."""
    image = keras.Input((16, 16, 1), name="image")
    skip = layers.Conv2D(6, 3, padding="same", activation="relu", name="enc_1")(image)
    deep = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="enc_2")(skip)
    deep = layers.Conv2D(8, 3, padding="same", activation="relu", name="bottleneck")(deep)
    up = layers.Conv2DTranspose(6, 2, strides=2, activation="relu", name="dec_1")(deep)
    mask = layers.Conv2D(1, 1, activation="sigmoid", name="mask")(layers.Concatenate()([skip, up]))
    built = keras.Model(image, mask)
    built.compile(keras.optimizers.Adam(1e-4), "binary_crossentropy", metrics=["accuracy"])
    data = batch()
    for _ in range(3):
        built.train_on_batch(data["x"], data["y"])
    for slot in built.optimizer.variables:
        if "bottleneck_kernel_velocity" in slot.path:
            broken = np.array(slot.value)
            broken[1, 1, 2, 5] = -0.5
            slot.assign(broken)
    return built


def batch():
    """Return four images with the masks of their bright parts."""
    rng = np.random.default_rng(0)
    image = rng.random((4, 16, 16, 1)).astype("float32")
    return {"x": image, "y": (image > 0.6).astype("float32")}
