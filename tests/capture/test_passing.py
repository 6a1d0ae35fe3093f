"""Steps at which nothing is due are passed over quickly. Is anything lost by that?"""

# ruff: noqa: ARG002 - Keras calls callbacks and layers with what it calls them with

from __future__ import annotations

import numpy as np
import pytest

from divergence_doctor import FlightRecorder
from divergence_doctor.bundle import open_bundle, verify
from divergence_doctor.capture import passing
from tests.capture._models import BATCH, data, dropout

STEPS = 40
#: In the middle of steps that pass: none of the first, and none at which all is done.
FAILING = 29


@pytest.fixture
def passed(monkeypatch):
    """Return how many steps have passed, as a list of one number."""
    from divergence_doctor.capture.recorder import Recorder

    count, ended = [0], Recorder.passed

    def counted(self, logs):
        count[0] += 1
        ended(self, logs)

    monkeypatch.setattr(Recorder, "passed", counted)
    # However slow the machine is at the moment.
    monkeypatch.setattr(passing, "LONGEST", 1e9)
    return count


def _fit(model, recorder, x, y, *others, **how):
    return model.fit(
        x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[recorder, *others], **how
    )


def _only(recorder):
    (path,) = recorder.bundles
    assert verify(path) == ()
    return open_bundle(path)


def _told(keras):
    """Return a callback, and the mean loss that it is told after every step."""
    means = []

    class Told(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            means.append(logs["loss"])

    return Told(), means


def test_the_failing_step_among_them_stops_training_at_once_and_is_told_exactly(
    keras, tmp_path, passed
):
    x, y = data(samples=BATCH * STEPS)
    y[FAILING * BATCH + 4] = np.nan
    recorder, (told, means) = FlightRecorder(tmp_path, verbose=0), _told(keras)
    model = dropout()
    _fit(model, recorder, x, y, told)
    assert passed[0] > STEPS // 2
    assert int(model.optimizer.iterations.numpy()) == FAILING + 1
    bundle = _only(recorder)
    assert bundle.reason["step"] == FAILING
    assert bundle.reason["trigger"] == "non-finite-loss"
    history = bundle.history
    assert history["step"] == tuple(range(FAILING + 1))
    np.testing.assert_array_equal(np.float32(history["loss"]), np.float32(means))
    # The mean over the epoch so far is that of the steps' losses.
    mean = np.cumsum(history["step_loss"][:-1]) / np.arange(1, FAILING + 1)
    assert mean == pytest.approx(means[:-1], rel=1e-5)
    held = {batch.step: batch for batch in bundle.batches}
    assert list(held) == list(range(max(bundle.manifest["snapshot_step"] - 2, 0), FAILING + 1))
    for step, batch in held.items():
        with np.load(batch.path, allow_pickle=False) as arrays:
            assert np.array_equal(arrays["x"], x[step * BATCH : (step + 1) * BATCH])


def test_an_exception_out_of_one_is_kept_with_its_batch(keras, tmp_path, passed):
    import tensorflow as tf

    class Checked(keras.layers.Layer):
        def call(self, x):
            tf.debugging.assert_less(x, 2.0, message="too large")
            return x

    keras.utils.set_random_seed(0)
    x, y = data(samples=BATCH * STEPS)
    x[FAILING * BATCH] = 9
    model = keras.Sequential([keras.Input(x.shape[1:]), Checked(), keras.layers.Dense(1)])
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, decay_steps=1, decay_rate=0.9)
    model.compile(keras.optimizers.SGD(schedule), "mse", jit_compile=False)
    recorder = FlightRecorder(tmp_path, verbose=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        _fit(model, recorder, x, y)
    assert passed[0] > STEPS // 2
    bundle = _only(recorder)
    assert (bundle.reason["trigger"], bundle.reason["step"]) == ("exception", FAILING)
    assert bundle.history["step"] == tuple(range(FAILING + 1))
    expected = tuple(0.01 * 0.9**step for step in range(FAILING + 1))
    assert bundle.history["learning_rate"] == pytest.approx(expected, rel=1e-5)
    with np.load(bundle.batches[-1].path, allow_pickle=False) as arrays:
        assert arrays["x"][0, 0] == 9


@pytest.mark.parametrize("changes", [(FAILING - 3,), tuple(range(STEPS))])
def test_a_rate_that_a_callback_sets_is_told_from_the_very_step(keras, tmp_path, passed, changes):
    class Sets(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch in changes:
                self.model.optimizer.learning_rate = 1e-4 * (batch + 1)

    x, y = data(samples=BATCH * STEPS)
    y[FAILING * BATCH] = np.nan
    recorder = FlightRecorder(tmp_path, verbose=0)
    model = dropout(optimizer=keras.optimizers.SGD(0.001))
    _fit(model, recorder, x, y, Sets())
    expected, rate = [], 0.001
    for step in range(FAILING + 1):
        rate = 1e-4 * (step + 1) if step in changes else rate
        expected.append(rate)
    assert _only(recorder).history["learning_rate"] == pytest.approx(tuple(expected), rel=1e-6)
    assert bool(passed[0]) == (len(changes) == 1)
    # The optimizer is as it was.
    assert "assign" not in vars(model.optimizer._learning_rate)


def test_a_rate_that_the_step_itself_sets_is_read_at_every_step(keras, tmp_path, passed):
    class Warming(keras.optimizers.SGD):
        def apply(self, grads, trainable_variables=None):
            self._learning_rate.assign(self._learning_rate * 1.5)
            return super().apply(grads, trainable_variables)

    x, y = data(samples=BATCH * 12)
    y[9 * BATCH] = np.nan
    recorder = FlightRecorder(tmp_path, verbose=0)
    _fit(dropout(optimizer=Warming(1e-6)), recorder, x, y)
    rates = _only(recorder).history["learning_rate"]
    assert rates == pytest.approx(tuple(1e-6 * 1.5**step for step in range(10)), rel=1e-5)


@pytest.mark.parametrize("how", [{"snapshot_every": 5}, {"spike": 10.0}, {"ring_bytes": 1}])
def test_where_something_is_due_at_every_step_none_passes(keras, tmp_path, passed, how):
    x, y = data(samples=BATCH * 12)
    _fit(dropout(), FlightRecorder(tmp_path, verbose=0, **how), x, y)
    assert passed[0] == 0


def test_no_more_pass_in_a_row_than_may_and_none_waits_when_training_has_ended(
    keras, tmp_path, passed, monkeypatch
):
    seen = []

    class Looks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(len(recorder.recorder.passing))

    monkeypatch.setattr(passing, "MOST", 15)
    x, y = data(samples=BATCH * STEPS)
    recorder = FlightRecorder(tmp_path, verbose=0)
    _fit(dropout(), recorder, x, y, Looks(), epochs=2)
    assert max(seen) == 15
    assert len(recorder.recorder.passing) == 0
    assert recorder.recorder.step == 2 * STEPS
    columns = recorder.recorder.history.columns(None)
    assert columns["step"] == list(range(2 * STEPS))
    assert columns["epoch"] == [0] * STEPS + [1] * STEPS


@pytest.mark.parametrize(("seconds", "count"), [(0.2, 0), (0.02, 5), (0.001, 63), (0.0, 63)])
def test_fewer_pass_where_a_step_takes_longer(seconds, count):
    steps = passing.Passing(lambda: 0.0)
    steps.let(1_000, seconds)
    assert steps.left == count
