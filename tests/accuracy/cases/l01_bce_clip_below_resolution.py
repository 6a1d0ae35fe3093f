"""A hand-made cross-entropy clips to [1e-9, 1 - 1e-9], and 1 - 1e-9 is 1 in float32: log(1 - 1).

From keras-team/keras#377 and keras-team/keras#198.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "log-of-zero",
    "stage": "loss",
    "layer": None,
    "op": "Log",
    "samples": [4, 11],
}


@keras.saving.register_keras_serializable("l01")
def clipped_crossentropy(y_true, y_pred):
    """Return the binary cross-entropy of clipped probabilities."""
    p = ops.clip(y_pred, 1e-9, 1.0 - 1e-9)
    return -ops.mean(y_true * ops.log(p) + (1.0 - y_true) * ops.log(1.0 - p), axis=-1)


def model():
    """Return a churn classifier late in its training: its margins have grown to about 30."""
    built = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(12, activation="tanh", name="hidden"),
            keras.layers.Dense(1, activation="sigmoid", name="churn"),
        ]
    )
    built.compile(keras.optimizers.Adam(1e-3), clipped_crossentropy, metrics=["accuracy"])
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(6, 12)) * 0.3
    mixing[0] = 1.0
    built.layers[0].set_weights([mixing, np.zeros(12)])
    built.layers[1].set_weights([np.full((12, 1), 2.0), np.full(1, -1.0)])
    return built


def batch():
    """Return sixteen customers; two of them are beyond doubt."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(16, 6)).astype("float32") * 0.2
    y = (rng.random((16, 1)) < 0.5).astype("float32")
    x[:, 0] = np.where(y[:, 0] > 0, 0.3, -0.3)
    x[[4, 11], 0] = 2.5
    y[[4, 11]] = 1.0
    return {"x": x, "y": y}
