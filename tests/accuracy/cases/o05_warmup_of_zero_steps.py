"""A warm-up over zero steps divides the step by it: the first learning rate is 0/0.

From tensorflow/tensorflow#13271.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-hyperparameter",
    "stage": "update",
    "layer": None,
    "op": "RealDiv",
    "samples": [],
}


@keras.saving.register_keras_serializable("o05b")
class LinearWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Rises to its peak over the first steps and stays there."""

    def __init__(self, peak, warmup_steps):
        self.peak = peak
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        """Return the rate of one step."""
        done = ops.cast(step, "float32") / float(self.warmup_steps)
        return self.peak * ops.minimum(done, 1.0)

    def get_config(self):
        """Return what the schedule is made of."""
        return {"peak": self.peak, "warmup_steps": self.warmup_steps}


def model():
    """Return a tagger that is fine-tuned without warm-up."""
    built = keras.Sequential(
        [
            keras.Input((12,), dtype="int32"),
            keras.layers.Embedding(60, 16, name="tokens"),
            keras.layers.Bidirectional(keras.layers.GRU(8, return_sequences=True), name="gru"),
            keras.layers.Dense(5, "softmax", name="tags"),
        ]
    )
    built.compile(
        keras.optimizers.AdamW(LinearWarmup(3e-4, warmup_steps=0), weight_decay=0.01),
        "sparse_categorical_crossentropy",
    )
    return built


def batch():
    """Return eight sentences with their tags."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.integers(0, 60, (8, 12)).astype("int32"),
        "y": rng.integers(0, 5, (8, 12)).astype("int32"),
    }
