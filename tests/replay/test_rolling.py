"""Does the recorded run come again to the bit, and is the step that went wrong first found?"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from divergence_doctor.checkpoints import OpenOptions, Recording, open_checkpoint
from divergence_doctor.errors import UsageError
from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.generators import Generators
from divergence_doctor.replay.rolling import Rolled, Rolling, _impossible_slot, compare, ulps
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


def test_each_batch_alone_begins_the_metrics_anew(keras, tmp_path):
    model = layered(keras, keras.layers.Dropout(0.5))
    model.compile("sgd", "mse")
    contents = recorded.train(model, batches(4), snapshot=1, loop="train_on_batch")
    keras.backend.clear_session()
    rolling, _ = rolling_of(recorded.write(tmp_path, contents))
    course = rolling.course()
    assert (course.equality.compared, course.equality.equal) == (3, 3)
    assert [step.step_loss for step in course.steps] == [float(s.loss) for s in course.steps]


def test_an_epoch_begins_the_metrics_anew_and_a_callbacks_rate_is_put_in_place(keras, tmp_path):
    model = layered(keras)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    data = batches(3)
    losses, before = [], None
    for step, rate in enumerate((0.1, 0.1, 0.025)):
        if step == 1:
            before = recorded.variables(model)
        if step == 2:
            model.reset_metrics()
        model.optimizer.learning_rate = rate
        model.make_train_function()
        packed = tuple(keras.ops.convert_to_tensor(part) for part in data[step])
        losses.append(float(model.train_function(iter([packed]))["loss"]))
    contents = recorded.train(layered_again(keras), data, snapshot=1)
    history = {
        **contents.history, "loss": losses, "epoch": [0, 0, 1], "learning_rate": [0.1, 0.1, 0.025],
    }  # fmt: skip
    contents = replace(contents, variables=before, history=history)
    keras.backend.clear_session()
    rolling, opened = rolling_of(recorded.write(tmp_path, contents))
    course = rolling.course()
    assert course.equality.sentence == "2 of 2 losses equal to the bit"
    assert [step.learning_rate for step in course.steps] == pytest.approx([0.1, 0.025])
    assert opened.recording.epoch(2) == 1


def layered_again(keras):
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = layered(keras)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def test_several_steps_per_execution_come_again_one_by_one(keras, tmp_path):
    model = layered(keras, keras.layers.Dropout(0.5))
    model.compile("adam", "mse", steps_per_execution=3)
    contents = recorded.train(model, batches(5), snapshot=2)
    keras.backend.clear_session()
    rolling, _ = rolling_of(recorded.write(tmp_path, contents))
    assert rolling.model.steps_per_execution == 3
    assert rolling.course().equality.sentence == "3 of 3 losses equal to the bit"


# ---------------------------------------------------------------------- what is compared


def test_a_loss_one_place_off_is_told_with_its_step_and_distance(keras, tmp_path):
    model = layered(keras)
    model.compile("sgd", "mse")
    contents = recorded.train(model, batches(4), snapshot=1)
    losses = list(contents.history["loss"])
    losses[2] = float(np.nextafter(np.float32(losses[2]), np.float32(9), dtype=np.float32))
    path = recorded.write(tmp_path, replace(contents, history={**contents.history, "loss": losses}))
    keras.backend.clear_session()
    rolling, _ = rolling_of(path)
    same = rolling.course().equality
    assert (same.compared, same.equal, same.step, same.ulp) == (3, 2, 2, 1)
    assert "the first that differs is that of training step 2, by 1 ulp" in same.sentence
    assert 0 < same.largest < 1e-6


@pytest.mark.parametrize(
    ("recorded_", "rolled", "apart"),
    [
        (1.0, np.float32(1.0), 0),
        (1.0, np.nextafter(np.float32(1), np.float32(2)), 1),
        (-0.0, np.float32(0.0), 0),
        (float(np.float32(-1e-45)), np.float32(1e-45), 2),
        (math.nan, np.float32("nan"), 0),
        (math.nan, np.float32(1), -1),
        (math.inf, np.float32("inf"), 0),
        (math.inf, np.float32("-inf"), -1),
        (3.0, np.float32("inf"), -1),
        (1e300, np.float32(1.0), -1),
        (0.1, np.float32(0.1), 1),
        (0.1, np.float64(0.1), 0),
    ],
)
def test_places_between_two_losses(recorded_, rolled, apart):
    found = ulps(recorded_, rolled)
    assert (found > 0) if apart == 1 else found == apart


def test_a_step_without_a_recorded_loss_is_not_compared():
    recording = Recording(
        bundle=None, failing=2, snapshot=0, steps=(),
        history={"step": (1, 2), "epoch": (0, 0), "loss": (None, 0.5)},
    )  # fmt: skip
    steps = [
        Rolled(step=n, loss=np.float32(0.5), step_loss=0.5, learning_rate=0.1, loss_scale=1.0)
        for n in (0, 1, 2)
    ]
    assert compare(recording, steps).compared == 1
    assert compare(recording, steps[:2]).sentence == "no loss was recorded to compare with"


# ---------------------------------------------------------------------- which step is watched


def test_weights_lost_before_the_loss_shows_it_are_seen_where_they_were_lost(keras, tmp_path):
    """The fused ReLU turns the NaN of a cell into 0: the loss stays finite, the kernel does not."""
    model = layered(keras)
    model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=False)
    data = batches(6)
    data[3][0][4, 2] = np.nan
    contents = recorded.train(model, data, snapshot=1)
    assert recorded.finite(contents.history["loss"][:4])
    keras.backend.clear_session()
    rolling, _ = rolling_of(recorded.write(tmp_path, contents))
    course = rolling.course()
    assert (course.first_bad, course.watched) == (3, (2, 3))
    assert "leaves dense/kernel not finite" in course.why
    assert "its loss is finite" in course.why
    assert course.equality.equal == course.equality.compared == 5


def test_where_no_step_fails_the_last_eight_are_watched(keras, tmp_path):
    model = layered(keras)
    model.compile("sgd", "mse")
    contents = recorded.train(model, batches(12), snapshot=1)
    keras.backend.clear_session()
    rolling, _ = rolling_of(recorded.write(tmp_path, contents))
    course = rolling.course()
    assert (course.first_bad, course.why) == (-1, "")
    assert course.watched == tuple(range(4, 12))


def test_the_state_before_a_step_is_that_of_the_training(keras, tmp_path):
    model = layered(keras, keras.layers.Dropout(0.5))
    model.compile("adam", "mse")
    data = batches(5)
    whole = recorded.train(model, data, snapshot=3)
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    model = layered(keras, keras.layers.Dropout(0.5))
    model.compile("adam", "mse")
    contents = recorded.train(model, data, snapshot=1)
    keras.backend.clear_session()
    rolling, _ = rolling_of(recorded.write(tmp_path, contents))
    rolling.to(3)
    before = [np.asarray(v.array).tobytes() for v in whole.variables]
    assert [np.asarray(v.array).tobytes() for v in recorded.variables(rolling.model)] == before


def test_what_xla_cannot_compile_here_runs_as_a_graph_and_says_so(keras, tmp_path, monkeypatch):
    model = layered(keras)
    model.compile("sgd", "mse", jit_compile=True)
    contents = recorded.train(model, batches(2), snapshot=0)
    keras.backend.clear_session()
    rolling, _ = rolling_of(recorded.write(tmp_path, contents))
    real, tried = rolling._make, []

    def refusing():
        tried.append(rolling.mode)
        if rolling.mode == "xla":
            raise UsageError("not-compilable", "no", why="no kernel for FancyOp", fix="none")
        return real()

    monkeypatch.setattr(rolling, "_make", refusing)
    course = rolling.course()
    assert tried == ["xla", "graph"]
    assert (course.mode, rolling.fallback) == ("graph", "no kernel for FancyOp")


# ---------------------------------------------------------------------- random state


def test_numbers_drawn_outside_of_the_model_come_again_too(keras, tmp_path):
    """A step of the user's own that runs eagerly may draw from Python and NumPy."""
    import random

    @keras.saving.register_keras_serializable("rolling")
    class Noisy(keras.layers.Layer):
        def call(self, x):
            return x * (1 + random.random() + np.random.normal())  # noqa: NPY002, S311 - meant

    model = layered(keras, Noisy())
    model.compile("sgd", "mse", run_eagerly=True)
    contents = recorded.train(model, batches(4), snapshot=2)
    keras.backend.clear_session()
    rolling, _ = rolling_of(recorded.write(tmp_path, contents))
    assert rolling.course().equality.sentence == "2 of 2 losses equal to the bit"


STATE = {"state": {"key": [1] * 624, "pos": 1}, "has_gauss": 0, "gauss": 0.0}


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"python": [3, "x", None], "numpy": {"state": 3}, "tf_global_seed": "7"},
        {"python": [3, [1] * 3, None], "numpy": [1, 2], "tf_global_generator": [[1]]},
        {"python": {"a": 1}, "numpy": {"bit_generator": "PCG", **STATE}},
        {"python": [3, [2**80] * 625, None], "tf_global_generator": [2**80, 1, 2]},
        {"tf_global_generator": ["a", "b"], "keras_global_seed_generator": "ab"},
    ],
)
def test_states_that_make_no_sense_are_left_out(told):
    assert Generators.recorded(told) == Generators()


def test_unseeded_draws_of_keras_come_again_too_also_after_others_drew(keras, tmp_path):
    @keras.saving.register_keras_serializable("rolling")
    class Unseeded(keras.layers.Layer):
        def call(self, x):
            return x + 0.1 * keras.random.normal(keras.ops.shape(x))

    model = layered(keras, Unseeded())
    model.compile("sgd", "mse")
    contents = recorded.train(model, batches(4), snapshot=2)
    path = recorded.write(tmp_path, contents)
    keras.backend.clear_session()
    rolling, _ = rolling_of(path)
    assert rolling.course().equality.sentence == "2 of 2 losses equal to the bit"
    keras.utils.set_random_seed(99)
    seams.forget_global_seed_generator()
    keras.random.normal((3,))
    assert rolling.course().equality.sentence == "2 of 2 losses equal to the bit"


def test_a_second_moment_below_zero_is_as_bad_as_a_nan(keras):
    model = layered(keras)
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    assert _impossible_slot(model) == ""
    slot = next(v for v in model.optimizer.variables if v.path.endswith("bias_velocity"))
    slot.assign(np.full(slot.shape, -1e-9))
    assert _impossible_slot(model) == ""
    slot.assign(np.full(slot.shape, -1.0))
    assert _impossible_slot(model) == slot.path
