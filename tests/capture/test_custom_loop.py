"""A loop of one's own: ``recorder.step`` round a step, ``recorder.watch`` round the dataset."""

from __future__ import annotations

import numpy as np
import pytest

from divergence_doctor import FlightRecorder
from divergence_doctor.bundle import open_bundle, verify
from tests.capture._models import FEATURES, data


def _made(keras):
    """Return a model, an optimizer and a compiled step that trains one with the other."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(4), keras.layers.Dense(1)]
    )
    optimizer = keras.optimizers.Adam(0.01)

    @tf.function
    def train(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
        return loss

    return model, optimizer, train


def _batches(bad=None):
    x, y = data(samples=64)
    for number in range(8):
        part = slice(8 * number, 8 * number + 8)
        yield x[part], y[part] * (np.nan if number == bad else 1.0)


def test_a_step_whose_loss_is_nan_leaves_batch_state_and_what_the_loop_is_made_of(keras, tmp_path):
    model, optimizer, train = _made(keras)
    recorder = FlightRecorder(
        tmp_path, model=model, optimizer=optimizer, loss=keras.losses.MeanSquaredError(),
        snapshot_every=2, verbose=0,
    )  # fmt: skip
    for batch in _batches(bad=5):
        with recorder.step(batch) as step:
            step.loss = train(*batch)
        if recorder.failed:
            break
    (path,) = recorder.bundles
    assert verify(path) == ()
    bundle = open_bundle(path)
    assert (bundle.reason["trigger"], bundle.reason["step"]) == ("non-finite-loss", 5)
    assert bundle.manifest["loop"] == "custom"
    assert bundle.manifest["snapshot_step"] in {4, 5}
    assert bundle.model["compile"]["optimizer"]["class_name"] == "Adam"
    assert bundle.model["compile"]["loss"]["class_name"] == "MeanSquaredError"
    roles = [variable.role for variable in bundle.variables]
    assert roles.count("weight") == 4
    assert roles.count("optimizer") == 2 + 2 * 4
    assert np.isfinite(bundle.history["step_loss"][:5]).all()


def test_watching_changes_nothing(keras, tmp_path):
    trained = []
    for watched in (False, True):
        model, optimizer, train = _made(keras)
        recorder = FlightRecorder(tmp_path, model=model, optimizer=optimizer, snapshot_every=1)
        for batch in recorder.watch(_batches()) if watched else _batches():
            recorder.loss = train(*batch)
        trained.append([v.numpy().tobytes() for v in (*model.variables, *optimizer.variables)])
    assert trained[0] == trained[1]
    assert recorder.recorder.step == 8


def test_watch_ends_the_loop_at_the_failing_step(keras, tmp_path):
    model, optimizer, train = _made(keras)
    recorder = FlightRecorder(tmp_path, model=model, optimizer=optimizer, verbose=0)
    losses = []
    for batch in recorder.watch(_batches(bad=3)):
        recorder.loss = train(*batch)
        losses.append(float(recorder.loss))
    assert len(losses) == 4
    assert open_bundle(recorder.bundles[0]).reason["step"] == 3


def test_weights_that_die_are_seen_in_a_loop_that_tells_no_loss(keras, tmp_path):
    model, optimizer, train = _made(keras)
    recorder = FlightRecorder(
        tmp_path, model=model, optimizer=optimizer, snapshot_every=2, verbose=0
    )
    for batch in recorder.watch(_batches(bad=3)):
        train(*batch)
    bundle = open_bundle(recorder.bundles[0])
    assert (bundle.reason["trigger"], bundle.reason["step"]) == ("non-finite-state", 4)
    assert bundle.manifest["snapshot_step"] == 3


def test_several_models_and_optimizers_are_kept_together(keras, tmp_path):
    one, other = (keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]) for _ in range(2))
    first, second = keras.optimizers.SGD(0.1, momentum=0.9), keras.optimizers.Adam(0.1)
    first.build(one.trainable_variables)
    second.build(other.trainable_variables)
    recorder = FlightRecorder(tmp_path, model=[one, other], optimizer=[first, second], verbose=0)
    with recorder.step(np.zeros((1, 2))) as step:
        step.loss = float("inf")
    bundle = open_bundle(recorder.bundles[0])
    assert bundle.reason["loss"] == "Infinity"
    roles = [variable.role for variable in bundle.variables]
    assert roles.count("weight") == 4
    assert roles.count("optimizer") == (2 + 2) + (2 + 4)


def test_an_exception_in_the_body_is_kept_and_goes_on(keras, tmp_path):
    model, optimizer, _ = _made(keras)
    recorder = FlightRecorder(tmp_path, model=model, optimizer=optimizer, verbose=0)
    with pytest.raises(ZeroDivisionError), recorder.step((np.ones((2, 3)),)):
        1 / 0  # noqa: B018 - it raises
    bundle = open_bundle(recorder.bundles[0])
    assert bundle.reason["trigger"] == "exception"
    assert "ZeroDivisionError" in bundle.reason["traceback"]
    assert "callback.py" not in bundle.reason["traceback"]
