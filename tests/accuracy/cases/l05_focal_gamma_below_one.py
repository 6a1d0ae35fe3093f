"""A focal loss with gamma 0.5 meets a saturated anchor: d(1 - p)^0.5 is infinite at p = 1.

From kornia/kornia#918 and mkocabas/focal-loss-keras#5.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "gradient-singularity",
    "stage": "backward",
    "layer": None,
    "op": "Pow",
    "samples": [2],
}


def model():
    """Return a small detector with one head for the objects and one for the boxes."""
    image = keras.Input((8, 8, 3), name="image")
    features = keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="c3")(
        image
    )
    features = keras.layers.Conv2D(8, 3, padding="same", activation="relu", name="p3")(features)
    classes = keras.layers.Conv2D(2, 1, activation="sigmoid", name="classes")(features)
    boxes = keras.layers.Conv2D(4, 1, name="boxes")(features)
    built = keras.Model(image, {"classes": classes, "boxes": boxes})
    built.compile(
        keras.optimizers.Adam(1e-4, clipnorm=1.0),
        {"classes": keras.losses.BinaryFocalCrossentropy(gamma=0.5), "boxes": "huber"},
        loss_weights={"classes": 1.0, "boxes": 0.5},
    )
    for layer, gain in (("c3", 1.0), ("p3", 1.0), ("classes", [0.1, 6.0])):
        kernel, bias = built.get_layer(layer).get_weights()
        bias = bias - 5.0 if layer == "classes" else bias
        built.get_layer(layer).set_weights([np.abs(kernel) * gain, bias])
    return built


def batch():
    """Return six images; the third is filled by a bright object that the net is wholly sure of."""
    rng = np.random.default_rng(0)
    images = rng.random((6, 8, 8, 3)).astype("float32") * 0.04
    classes = np.zeros((6, 4, 4, 2), "float32")
    images[2] = 1.0
    classes[2, ..., 1] = 1.0
    return {
        "x/image": images,
        "y/classes": classes,
        "y/boxes": rng.normal(size=(6, 4, 4, 4)).astype("float32"),
    }
