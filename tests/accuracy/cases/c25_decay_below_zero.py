"""An own linear decay is not stopped at its end: long after it the rate is negative and ascends.

The family of tensorflow/tensorflow#13271.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-hyperparameter",
    "stage": "update",
    "samples": [],
}
HELD_OUT = True

ARGUMENTS = ["--steps", "40"]


@keras.saving.register_keras_serializable("c25")
class LinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Falls by the same amount at every step."""

    def __init__(self, start, steps):
        super().__init__()
        self.start, self.steps = start, steps

    def __call__(self, step):
        return self.start * (1.0 - keras.ops.cast(step, "float32") / self.steps)

    def get_config(self):
        """Return what the schedule is made of."""
        return {"start": self.start, "steps": self.steps}


def model():
    """Return a regression at step 700 of a decay over 100."""
    built = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16, "relu", name="hidden"),
            keras.layers.Dense(1, name="target"),
        ]
    )
    built.compile(keras.optimizers.SGD(LinearDecay(0.05, 100)), "mse")
    built.optimizer.build(built.trainable_variables)
    built.optimizer.iterations.assign(700)
    return built


def batch():
    """Return thirty-two samples."""
    rng = np.random.default_rng(37)
    x = rng.normal(size=(32, 6)).astype("float32")
    return {"x": x, "y": x[:, :1] + 0.3 * rng.normal(size=(32, 1)).astype("float32")}
