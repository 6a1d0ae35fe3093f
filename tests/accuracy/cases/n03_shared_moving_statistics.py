"""Three towers share one batch normalisation, whose moving statistics ran off to 1e38 and inf.

The loss and the weights are fine, only inference is lost. From keras-team/keras#9646 and
keras-team/keras#11927.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "corrupt-weights",
    "stage": "checkpoint",
    "layer": "shared_norm",
    "samples": [],
}


@keras.saving.register_keras_serializable("n03")
def triplet_loss(_, embedded, margin=0.2):
    """Return by how much the negative is not farther from the anchor than the positive."""
    anchor, positive, negative = ops.split(embedded, 3, axis=1)
    near = ops.sum(ops.square(anchor - positive), axis=-1)
    far = ops.sum(ops.square(anchor - negative), axis=-1)
    return ops.maximum(near - far + margin, 0.0)


def model():
    """Return a triplet net, its moving statistics as a run of some hours left them."""
    face = keras.Input((12, 12, 1))
    hidden = keras.layers.Conv2D(8, 3, strides=2, name="conv")(face)
    norm = keras.layers.BatchNormalization(name="shared_norm")
    hidden = keras.layers.ReLU()(norm(hidden))
    hidden = keras.layers.GlobalAveragePooling2D()(hidden)
    hidden = keras.layers.Dense(6, name="embedding")(hidden)
    tower = keras.Model(face, keras.layers.UnitNormalization()(hidden), name="tower")
    faces = [keras.Input((12, 12, 1), name=name) for name in ("anchor", "positive", "negative")]
    stacked = keras.layers.Concatenate(axis=1)(
        [keras.layers.Reshape((1, 6))(tower(one)) for one in faces]
    )
    built = keras.Model(faces, stacked)
    norm.moving_mean.assign(np.full(8, 1e38, "float32"))
    norm.moving_variance.assign(np.full(8, np.inf, "float32"))
    built.compile(keras.optimizers.Adam(1e-3), triplet_loss)
    return built


def batch():
    """Return eight triplets of faces."""
    rng = np.random.default_rng(0)
    anchor = rng.random((8, 12, 12, 1))
    return {
        "x_0": anchor.astype("float32"),
        "x_1": (anchor + 0.1 * rng.normal(size=anchor.shape)).astype("float32"),
        "x_2": rng.random((8, 12, 12, 1)).astype("float32"),
        "y": np.zeros((8, 1), "float32"),
    }
