"""The output bias starts at log(positives / negatives), and one behaviour never occurs: -inf.

The loss is NaN in that column, the gradients are finite. From jbohnslav/deepethogram#15.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "corrupt-weights",
    "stage": "checkpoint",
    "layer": "behaviours",
    "samples": [],
}

FRAMES, FEATURES = 10, 12


@keras.saving.register_keras_serializable("n05")
class Ethogram(keras.Model):
    """Says for a clip which behaviours it shows."""

    def __init__(self, odds, **kwargs):
        super().__init__(**kwargs)
        self.odds = list(odds)
        self.flow = keras.layers.Conv1D(16, 3, activation="relu", name="flow")
        self.pool = keras.layers.GlobalMaxPooling1D()
        self.behaviours = keras.layers.Dense(len(self.odds), name="behaviours")

    def call(self, clip):
        """Return one logit for each behaviour."""
        return self.behaviours(self.pool(self.flow(clip)))

    def get_config(self):
        """Return what the model is made of."""
        return {**super().get_config(), "odds": self.odds}


def model():
    """Return the classifier for three behaviours; the second one was never labelled."""
    positives = np.array([30.0, 0.0, 50.0])
    built = Ethogram((positives / (100.0 - positives)).tolist(), name="ethogram")
    built(np.zeros((1, FRAMES, FEATURES), "float32"))
    with np.errstate(divide="ignore"):
        built.behaviours.bias.assign(np.log(built.odds))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    built.compile(keras.optimizers.Adam(1e-4), loss, metrics=["accuracy"])
    return built


def batch():
    """Return sixteen clips of optical flow."""
    rng = np.random.default_rng(0)
    labels = rng.random((16, 3)) < np.array([0.3, 0.0, 0.5])
    return {
        "x": rng.normal(size=(16, FRAMES, FEATURES)).astype("float32"),
        "y": labels.astype("float32"),
    }
