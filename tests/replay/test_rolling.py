"""Does the recorded run come again to the bit, and is the step that went wrong first the one seen?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from divergence_doctor.checkpoints import OpenOptions, Recording, open_checkpoint
from divergence_doctor.replay.generators import Generators
from divergence_doctor.replay.rolling import Rolled, Rolling, compare, ulps
from tests import recorded

GENERATOR = np.random.default_rng(3)
MODES = {
    "graph": {"jit_compile": False},
    "eager": {"run_eagerly": True},
    "jit": {"jit_compile": True},
}


def batches(steps, *, features=6, samples=8):
    return [
        (
            GENERATOR.normal(size=(samples, features)).astype("float32"),
            GENERATOR.normal(size=(samples, 1)).astype("float32"),
        )
        for _ in range(steps)
    ]


def layered(keras, *middle):
    keras.utils.set_random_seed(7)
    layers = keras.layers
    return keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(12, activation="relu"),
            *middle,
            layers.Dense(1, dtype="float32"),
        ]
    )


def own_step(keras, tf):
    @keras.saving.register_keras_serializable("rolling")
    class Own(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = keras.ops.mean((self(x, training=True) - y) ** 2)
            gradients = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
            self._loss_tracker.update_state(loss)
            return {"loss": self._loss_tracker.result()}

    inputs = keras.Input((6,))
    middle = keras.layers.Dropout(0.4)(keras.layers.Dense(12, activation="relu")(inputs))
    return Own(inputs, keras.layers.Dense(1)(middle))


def made(keras, what):
    layers = keras.layers
    if what == "custom train_step":
        import tensorflow as tf

        return own_step(keras, tf)
    if what == "mixed_float16":
        keras.config.set_dtype_policy("mixed_float16")
    middle = {
        "Dropout": [layers.Dropout(0.5)],
        "GaussianNoise": [layers.GaussianNoise(0.3)],
        "BatchNormalization": [layers.BatchNormalization()],
        "mixed_float16": [layers.Dropout(0.3), layers.BatchNormalization()],
    }
    return layered(keras, *middle[what])


def rolling_of(path):
    opened = open_checkpoint(path, OpenOptions())
    generators = Generators.recorded(opened.recording.generators)
    return Rolling(opened.model, opened.recording, generators), opened


# ---------------------------------------------------------------------- to the bit


@pytest.mark.parametrize(
    "what", ["Dropout", "GaussianNoise", "BatchNormalization", "mixed_float16", "custom train_step"]
)
@pytest.mark.parametrize("mode", list(MODES))
def test_every_loss_comes_again_to_the_bit(keras, tmp_path, mode, what):
    model = made(keras, what)
    model.compile(keras.optimizers.Adam(0.01), "mse", **MODES[mode])
    contents = recorded.train(model, batches(6), snapshot=2)
    path = recorded.write(tmp_path, contents)
    keras.config.set_dtype_policy("float32")
    keras.backend.clear_session()
    rolling, _ = rolling_of(path)
    assert rolling.mode == {"jit": "xla"}.get(mode, mode)
    course = rolling.course()
    assert [step.step for step in course.steps] == [2, 3, 4, 5]
    assert [float(step.loss) for step in course.steps] == contents.history["loss"][2:]
    assert (course.equality.compared, course.equality.equal) == (4, 4)
    assert course.equality.sentence == "4 of 4 losses equal to the bit"
    # And once more from the same start: what a step changes is all put back.
    assert [float(step.loss) for step in rolling.course().steps] == contents.history["loss"][2:]
