"""Each private door of TensorFlow and Keras that the recorder goes through is where it was."""

# ruff: noqa: ARG002 - Keras calls callbacks and layers with what it calls them with

from __future__ import annotations

import random

import numpy as np
import pytest

from divergence_doctor.capture import _seams as seams
from divergence_doctor.capture.generators import Generators
from divergence_doctor.capture.losses import StepLoss
from tests.capture._models import BATCH, data, dropout, half


def test_the_trainer_of_keras_is_the_class_and_module_that_the_hook_waits_for(keras):
    import sys

    trainer = getattr(sys.modules[seams.TRAINER_MODULE], seams.TRAINER_CLASS)
    assert issubclass(keras.Model, trainer)
    for name in ("fit", "train_on_batch", "make_train_function"):
        assert name in vars(trainer)


def test_the_train_function_encloses_the_function_of_one_step(keras):
    model = dropout()
    model.make_train_function()
    assert hasattr(seams.one_step(model.train_function), "get_concrete_function")
    eager = dropout(run_eagerly=True)
    eager.make_train_function()
    assert seams.one_step(eager.train_function) is None
    with pytest.raises(LookupError):
        seams.one_step(lambda iterator: iterator)


def test_fit_asks_for_the_train_function_before_it_begins_and_can_be_asked_what_it_was_given(keras):
    found = {}

    class Looks(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            found.update(seams.fit_arguments())
            found["function"] = seams.train_function(self.model)

    x, _ = data()
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, np.zeros(len(x), int), class_weight={0: 1.0, 1: 2.0}, verbose=0,
              callbacks=[Looks()])  # fmt: skip
    assert found["class_weight"] == {0: 1.0, 1: 2.0}
    assert callable(found["function"])
    assert seams.fit_arguments() == {}


def test_a_plain_iterator_is_taken_step_by_step(keras):
    x, y = data()
    model = dropout()
    model.make_train_function()
    logs = model.train_function(iter([(x[:8], y[:8])]))
    assert np.isfinite(seams.view(logs["loss"]))
    assert int(model.optimizer.iterations) == 1


def test_a_variable_is_read_without_a_copy_and_shows_what_it_holds(keras):
    variable = keras.Variable(np.arange(6, dtype="float32"))
    read = seams.reader(variable)
    first = read()
    assert first.tolist() == [0, 1, 2, 3, 4, 5]
    assert not first.flags.owndata
    del first
    variable.assign(np.ones(6, "float32"))
    assert read().tolist() == [1] * 6
    assert seams.is_on_host(variable)


def test_asking_for_generators_makes_none_and_moves_none(keras):
    import tensorflow as tf

    seams.global_seed_generator()
    before = random.getstate()
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global state
    had = seams.tensorflow_generator()
    Generators.now()
    assert random.getstate() == before
    after = np.random.get_state(legacy=False)  # noqa: NPY002
    assert np.array_equal(after["state"]["key"], state["state"]["key"])
    assert seams.tensorflow_generator() is had
    keras.utils.set_random_seed(7)
    assert seams.tensorflow_seed() == 7
    assert seams.tensorflow_op_seeds()[0] == 3
    tf.random.uniform(())
    tf.random.get_global_generator()
    now = Generators.now().as_json()
    assert len(now["python"][1]) == 625
    assert now["tf_global_generator"]
    keras.random.normal((2,))
    assert seams.global_seed_generator().state.shape == (2,)


def test_the_loss_scale_has_variables_of_its_own_beside_those_of_the_optimizer_inside(keras):
    model = half()
    model.optimizer.build(model.trainable_variables)
    names = [variable.name for variable in seams.own_variables(model.optimizer)]
    assert "dynamic_scale" in names
    assert not any("momentum" in name for name in names)


def test_the_rate_is_a_variable_or_a_schedule(keras):
    variable, schedule = seams.rate(keras.optimizers.SGD(0.5))
    assert float(variable) == 0.5
    assert schedule is None
    decay = keras.optimizers.schedules.ExponentialDecay(0.5, 1, 0.5)
    variable, schedule = seams.rate(keras.optimizers.SGD(decay))
    assert schedule is decay
    assert int(variable) == 0


def test_an_assignment_of_the_rate_is_seen_until_it_is_watched_no_more(keras):
    import tensorflow as tf

    optimizer = keras.optimizers.SGD(0.5)
    variable, _ = seams.rate(optimizer)
    seen = []
    assert seams.watch_assign(variable, lambda *, in_graph: seen.append(in_graph))
    optimizer.learning_rate = 0.25
    tf.function(lambda: variable.assign(0.125))()
    seams.unwatch_assign(variable)
    optimizer.learning_rate = 1.0
    assert seen == [False, True]
    assert float(variable) == 1.0


def test_the_mean_that_keras_logs_gives_the_loss_of_the_step_as_the_tracker_does(keras):
    losses, truth = {}, []

    class Reads(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            for one in losses.values():
                one.settle(between=False)

        def on_train_batch_end(self, batch, logs=None):
            size = BATCH if batch < 6 else 4
            truth.append(losses["tracker"].after_step(None, 0, reset=False))
            assert losses["mean"].after_step(logs["loss"], size, reset=False) == pytest.approx(
                truth[-1], rel=1e-5
            )

    x, y = data()
    model = dropout()
    losses.update(tracker=StepLoss(model), mean=StepLoss(model))
    model.fit(x, y, batch_size=BATCH, epochs=2, verbose=0, callbacks=[Reads()])
    assert len(truth) == 14
    assert losses["mean"]._weighs
    losses["mean"].settle()
    assert losses["mean"]._weighs


def test_the_size_of_a_batch_is_read_off_its_first_axis(keras):
    import tensorflow as tf

    assert seams.samples(tf.zeros((3, 2))) == 3
    assert seams.samples(np.zeros((4, 2))) == 4
    assert seams.samples(tf.zeros(())) == 0
