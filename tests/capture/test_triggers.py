"""What a bundle is written for: each trigger, at the step where it came up, with what led to it."""

# ruff: noqa: ARG002, ARG005 - Keras calls callbacks and layers with what it calls them with

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from divergence_doctor import FlightRecorder
from divergence_doctor.bundle import open_bundle, verify
from divergence_doctor.capture import DivergenceError
from tests.bundle._faults import Counting
from tests.capture import _models
from tests.capture._models import BATCH, FEATURES, custom, data, half, normalised, poisoned


def dropout(**compiled):
    """Return the small model, run op by op where nothing else is asked for: nothing is traced."""
    return _models.dropout(**{"run_eagerly": True, **compiled})


def _fit(model, x, y, recorder, **how):
    return model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[recorder], **how)


def _only(recorder):
    """Return the one bundle that was written, which is whole."""
    (path,) = recorder.bundles
    assert verify(path) == ()
    return open_bundle(path)


def _arrays(bundle, step):
    (batch,) = [batch for batch in bundle.batches if batch.step == step]
    with np.load(batch.path, allow_pickle=False) as arrays:
        return dict(arrays)


# ------------------------------------------------------------------------------ of the loss


@pytest.mark.parametrize(
    "how",
    [
        {"run_eagerly": True},
        {"run_eagerly": False},
        {"run_eagerly": False, "jit_compile": True},
    ],
)
def test_the_step_whose_loss_is_nan_is_told_with_its_batch_and_the_state_before(
    keras, tmp_path, how
):
    x, y = poisoned()
    recorder = FlightRecorder(tmp_path, snapshot_every=1, verbose=0)
    model = dropout(**how)
    history = _fit(model, x, y, recorder, epochs=3)
    assert len(history.history["loss"]) == 1
    bundle = _only(recorder)
    assert bundle.reason["trigger"] == "non-finite-loss"
    assert bundle.reason["step"] == 2
    assert bundle.reason["loss"] == "NaN"
    assert bundle.reason["found_after"] == 0
    assert bundle.manifest["snapshot_step"] == 2
    assert np.array_equal(_arrays(bundle, 2)["x"], x[16:24])
    assert np.array_equal(_arrays(bundle, 2)["y"], y[16:24], equal_nan=True)
    assert [batch.step for batch in bundle.batches] == [0, 1, 2]
    assert [batch.before_snapshot for batch in bundle.batches] == [True, True, False]
    for variable in bundle.variables:
        assert np.isfinite(variable.load()).all(), variable.path


def test_the_state_is_that_from_before_the_step_of_the_snapshot(keras, tmp_path):
    x, y = poisoned(sample=30)
    recorder = FlightRecorder(tmp_path, snapshot_every=2, verbose=0)
    _fit(dropout(run_eagerly=False), x, y, recorder)
    bundle = _only(recorder)
    assert bundle.manifest["snapshot_step"] == 2
    assert bundle.reason["step"] == 3
    assert bundle.reason["found_after"] == 1
    plain = dropout(run_eagerly=False)
    plain.fit(x[:16], y[:16], batch_size=BATCH, shuffle=False, verbose=0)
    kept = [variable.load() for variable in bundle.variables]
    mine = [np.asarray(v.numpy()) for v in (*plain.weights, *plain.optimizer.variables)]
    roles = [variable.role for variable in bundle.variables]
    assert roles == ["weight"] * 4 + ["seed"] + ["metric"] * 2 + ["optimizer"] * 10
    for one, other in zip(kept[:4] + kept[7:], mine, strict=True):
        assert one.tobytes() == other.tobytes()


def test_history_has_the_loss_of_each_step_beside_the_mean_that_keras_logs(keras, tmp_path):
    x, y = poisoned()
    recorder = FlightRecorder(tmp_path, verbose=0)
    model = dropout(optimizer=keras.optimizers.SGD(1e-9))
    _fit(model, x, y, recorder)
    history = _only(recorder).history
    assert history["step"] == (0, 1, 2)
    assert history["loss"][2] != history["loss"][2]
    first, second = history["step_loss"][:2]
    assert history["loss"][1] == pytest.approx((first + second) / 2, rel=1e-6)
    assert history["learning_rate"] == pytest.approx((1e-9,) * 3, rel=1e-6)


def test_the_rate_of_a_schedule_is_told_for_every_step(keras, tmp_path):
    x, y = poisoned()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=0.5)
    recorder = FlightRecorder(tmp_path, verbose=0)
    _fit(dropout(optimizer=keras.optimizers.SGD(schedule)), x, y, recorder)
    assert _only(recorder).history["learning_rate"] == pytest.approx((0.1, 0.05, 0.025))


def test_a_loss_that_a_custom_step_returns_is_looked_at(keras, tmp_path):
    x, y = poisoned()
    recorder = FlightRecorder(tmp_path, verbose=0)
    _fit(custom(), x, y, recorder)
    bundle = _only(recorder)
    assert (bundle.reason["trigger"], bundle.reason["step"]) == ("non-finite-loss", 2)
    assert bundle.reason["message"] == "loss is nan"


def test_a_metric_that_is_nan_is_no_failure_while_loss_and_state_are_sound(keras, tmp_path):
    @keras.saving.register_keras_serializable("tests")
    def undefined(y_true, y_pred):
        return keras.ops.sum(y_pred) * float("nan")

    model = dropout()
    model.compile("adam", "mse", metrics=[undefined])
    recorder = FlightRecorder(tmp_path, verbose=0)
    x, y = data()
    _fit(model, x, y, recorder)
    assert not recorder.failed
    assert recorder.recorder.step == 7


def test_a_spike_is_told_where_it_was_asked_for(keras, tmp_path):
    x, y = data(samples=400)
    y[240:] *= 100
    for spike, found in ((None, False), (50.0, True)):
        recorder = FlightRecorder(tmp_path / str(spike), spike=spike, verbose=0)
        _fit(dropout(optimizer="sgd"), x, y, recorder)
        assert recorder.failed == found
    bundle = _only(recorder)
    assert (bundle.reason["trigger"], bundle.reason["step"]) == ("loss-spike", 30)
    assert "times the usual" in bundle.reason["message"]


# ------------------------------------------------------------------------------ of the state


def test_weights_that_die_while_the_loss_stays_finite_are_found(keras, tmp_path):
    class Poisons(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:
                kernel = self.model.layers[0].kernel
                kernel.assign(np.full(kernel.shape, np.nan, np.float32))

    class NanToZero(keras.layers.Layer):
        def call(self, x):
            return keras.ops.where(keras.ops.isnan(x), 0.0, x)

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((FEATURES,)), keras.layers.Dense(4), NanToZero(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    recorder = FlightRecorder(tmp_path, snapshot_every=2, verbose=0)
    x, y = data()
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[recorder, Poisons()])
    bundle = _only(recorder)
    assert bundle.reason["trigger"] == "non-finite-state"
    assert "NaN or Inf in weight sequential/dense/kernel" in bundle.reason["message"]
    assert bundle.manifest["snapshot_step"] == 2
    assert bundle.reason["step"] == 3
    assert np.isfinite(bundle.reason["loss"])
    for variable in bundle.variables:
        assert np.isfinite(variable.load()).all(), variable.path


def test_a_negative_moving_variance_is_impossible(keras, tmp_path):
    class Breaks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                self.model.layers[1].moving_variance.assign(np.full(5, -0.01, np.float32))

    recorder = FlightRecorder(tmp_path, snapshot_every=1, verbose=0)
    x, y = data()
    model = normalised()
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[recorder, Breaks()])
    bundle = _only(recorder)
    assert bundle.reason["trigger"] == "impossible-state"
    assert "moving_variance" in bundle.reason["message"]


def test_a_negative_second_moment_is_impossible_and_a_negative_momentum_is_not(keras, tmp_path):
    class Breaks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            slots = [v for v in self.model.optimizer.variables if v.path.endswith(self.which)]
            slots[0].assign(np.full(slots[0].shape, -1.0, np.float32))

    found = {}
    for which in ("_momentum", "_velocity"):
        recorder = FlightRecorder(tmp_path / which, snapshot_every=1, verbose=0)
        breaks = Breaks()
        breaks.which = which
        x, y = data(samples=16)
        dropout().fit(x, y, batch_size=BATCH, verbose=0, callbacks=[recorder, breaks])
        found[which] = [open_bundle(path).reason["trigger"] for path in recorder.bundles]
    assert found == {"_momentum": [], "_velocity": ["impossible-state"]}


def test_what_the_last_step_did_to_the_state_is_seen_when_training_ends(keras, tmp_path):
    class Breaks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.layers[0].bias.assign(np.full(5, np.inf, np.float32))

    recorder = FlightRecorder(tmp_path, snapshot_every=100, verbose=0)
    x, y = data()
    dropout().fit(x, y, batch_size=BATCH, verbose=0, callbacks=[Breaks(), recorder])
    bundle = _only(recorder)
    assert (bundle.reason["trigger"], bundle.reason["step"]) == ("non-finite-state", 6)


def test_a_mask_that_was_infinite_from_the_start_is_no_failure(keras, tmp_path):
    class Masked(keras.layers.Layer):
        def build(self, shape):
            self.mask = self.add_weight(
                shape=(2,), initializer=lambda shape, dtype: np.array([0.0, -np.inf], "float32"),
                trainable=False, name="mask",
            )  # fmt: skip

        def call(self, x):
            return x + self.mask[0]

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((FEATURES,)), Masked(), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    recorder = FlightRecorder(tmp_path, snapshot_every=1, verbose=0)
    x, y = data()
    _fit(model, x, y, recorder)
    assert not recorder.failed
    assert recorder.recorder.snapshot.step == 6


def test_half_precision_that_skips_every_step_is_frozen(keras, tmp_path):
    model = half()
    x, y = data(samples=8 * 40)
    x[:] = 3e38
    recorder = FlightRecorder(tmp_path, verbose=0)
    model.compile(keras.optimizers.SGD(0.1), keras.losses.MeanAbsoluteError(), auto_scale_loss=True)

    class Finite(keras.callbacks.Callback):
        """Keeps the loss itself out of it: only the gradients overflow."""

    @keras.saving.register_keras_serializable("tests")
    def steep(y_true, y_pred):
        zero = keras.ops.cast(y_pred, "float32") * 0.0
        return keras.ops.where(keras.ops.isnan(zero), 1.0, zero + 1.0)

    model.compile(keras.optimizers.SGD(0.1), steep, auto_scale_loss=True)
    _fit(model, x, y, recorder)
    bundle = _only(recorder)
    assert bundle.reason["trigger"] == "frozen"
    assert "steps were skipped" in bundle.reason["message"]
    assert bundle.history["loss_scale"][:3] == (2.0**15, 2.0**14, 2.0**13)
    assert bundle.manifest["auto_scale_loss"] is True
    assert bundle.manifest["dtype_policy"] == "mixed_float16"


# ------------------------------------------------------------------------- exceptions, signals


@pytest.mark.parametrize("eager", [True, False])
def test_an_exception_out_of_the_step_is_kept_and_goes_on_its_way(keras, tmp_path, eager):
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Embedding(4, 2),
                              keras.layers.Flatten(), keras.layers.Dense(1)])  # fmt: skip
    model.compile("sgd", "mse", run_eagerly=eager)
    x = np.zeros((32, 1), np.float32)
    x[20] = 9
    recorder = FlightRecorder(tmp_path, snapshot_every=1, verbose=0)
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match="9"):
        _fit(model, x, x, recorder)
    bundle = _only(recorder)
    assert bundle.reason["trigger"] == "exception"
    assert bundle.reason["step"] == 2
    assert "InvalidArgumentError" in bundle.reason["message"]
    assert "InvalidArgumentError" in bundle.reason["traceback"]
    assert _arrays(bundle, 2)["x"][4, 0] == 9


def test_an_exception_while_the_step_is_traced_is_kept_too(keras, tmp_path):
    recorder = FlightRecorder(tmp_path, verbose=0)
    x, y = data()
    with pytest.raises(ValueError, match="incompatible"):
        _fit(dropout(), x[:, :2], y, recorder)
    bundle = _only(recorder)
    assert (bundle.reason["trigger"], bundle.reason["step"]) == ("exception", 0)
    assert _arrays(bundle, 0)["x"].shape == (8, 2)


def test_an_error_of_the_data_pipeline_is_none_of_the_step(keras, tmp_path):
    def broken():
        x, y = data()
        yield x[:8], y[:8]
        raise OSError("no more files")

    recorder = FlightRecorder(tmp_path, verbose=0)
    with pytest.raises(Exception, match="no more files"):
        dropout().fit(broken(), steps_per_epoch=4, shuffle=False, verbose=0, callbacks=[recorder])
    assert recorder.bundles == ()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_bundle_and_then_does_what_it_would_have_done(keras, tmp_path, number):
    came = []

    class Sends(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)

    def mine(number, frame):
        came.append(number)
        raise KeyboardInterrupt

    signal.signal(number, mine)
    try:
        recorder = FlightRecorder(tmp_path, signals=[number], verbose=0)
        x, y = data()
        with pytest.raises(KeyboardInterrupt):
            dropout().fit(x, y, batch_size=BATCH, verbose=0, callbacks=[Sends(), recorder])
        assert signal.getsignal(number) is mine
    finally:
        signal.signal(number, before)
    assert came == [number]
    bundle = _only(recorder)
    assert bundle.reason["trigger"] == "signal"
    assert bundle.reason["step"] == 3
    assert signal.Signals(number).name in bundle.reason["message"]


def test_a_signal_in_the_step_waits_for_its_end(keras, tmp_path):
    class Interrupts(keras.layers.Layer):
        calls = 0

        def call(self, x):
            type(self).calls += 1
            if type(self).calls == 3:
                os.kill(os.getpid(), signal.SIGINT)
                assert not list(tmp_path.iterdir())
            return x

    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
    model.add(Interrupts())
    model.compile("sgd", "mse", run_eagerly=True)
    Interrupts.calls = 0
    recorder = FlightRecorder(tmp_path, signals=True, verbose=0, snapshot_every=1)
    x, y = data()
    with pytest.raises(KeyboardInterrupt):
        _fit(model, x, y, recorder)
    bundle = _only(recorder)
    assert bundle.reason["step"] == 2
    assert np.isfinite(bundle.history["step_loss"][2])


def test_a_second_signal_does_not_wait_for_the_bundle(keras, tmp_path):
    class Sends(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 3:
                os.kill(os.getpid(), signal.SIGINT)

    class Again(Counting):
        def before(self, call):
            if len(self.calls) == 20:
                os.kill(os.getpid(), signal.SIGINT)

    recorder = FlightRecorder(tmp_path, signals=True, verbose=0)
    recorder.recorder.fs = Again()
    x, y = data()
    model = dropout()
    with pytest.raises(KeyboardInterrupt):
        model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[Sends(), recorder])
    assert recorder.bundles == ()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("crash-")]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# ---------------------------------------------------------------------------- what then happens


def test_raise_raises_with_the_bundle_and_puts_the_train_function_back(keras, tmp_path):
    recorder = FlightRecorder(tmp_path, on_failure="raise", verbose=0)
    model = dropout()
    with pytest.raises(DivergenceError, match="step 2: the loss of the step is nan") as caught:
        _fit(model, *poisoned(), recorder)
    assert caught.value.bundle == recorder.bundles[0]
    x, y = data()
    model.fit(x, y, verbose=0)
    assert recorder.recorder.step == 3


def test_continue_writes_one_bundle_per_episode_and_trains_to_the_end(keras, tmp_path):
    recorder = FlightRecorder(tmp_path, on_failure="continue", snapshot_every=1, verbose=0)
    x, y = poisoned()
    model = dropout()
    history = _fit(model, x, y, recorder, epochs=3)
    assert len(history.history["loss"]) == 3
    assert recorder.recorder.step == 21
    assert _only(recorder).reason["step"] == 2


def test_a_second_episode_is_told_once_the_state_was_sound_again(keras, tmp_path):
    class Heals(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            for variable, value in zip(self.model.variables, good, strict=True):
                variable.assign(value)
            for variable, value in zip(self.model.optimizer.variables, slots, strict=True):
                variable.assign(value)

    model = dropout()
    model.optimizer.build(model.trainable_variables)
    good = [variable.numpy() for variable in model.variables]
    slots = [variable.numpy() for variable in model.optimizer.variables]
    recorder = FlightRecorder(tmp_path, on_failure="continue", snapshot_every=1, keep=2, verbose=0)
    x, y = poisoned()
    model.fit(x, y, batch_size=BATCH, shuffle=False, epochs=4, verbose=0,
              callbacks=[recorder, Heals()])  # fmt: skip
    assert [open_bundle(path).reason["step"] for path in recorder.bundles] == [2, 9]


def test_data_false_leaves_the_batches_out(keras, tmp_path):
    recorder = FlightRecorder(tmp_path, data=False, verbose=0)
    _fit(dropout(), *poisoned(), recorder)
    bundle = _only(recorder)
    assert bundle.batches == ()
    assert bundle.manifest["data"] is False
    assert bundle.variables


def test_the_line_on_standard_error_can_be_pasted(keras, tmp_path, capfd):
    recorder = FlightRecorder(tmp_path)
    _fit(dropout(), *poisoned(), recorder)
    said = capfd.readouterr().err
    assert "the loss of the step is nan (step 2, epoch 0)" in said
    assert f"doctor replay {recorder.bundles[0]}" in said


def test_the_ring_lets_go_of_what_is_older_than_the_snapshot(keras, tmp_path):
    recorder = FlightRecorder(tmp_path, snapshot_every=2, verbose=0)
    held = _watched_ring(keras, recorder)
    # Those of the interval and the two before it; none when training has ended.
    assert max(held) == 4
    assert not recorder.recorder.ring


def test_a_full_ring_makes_a_snapshot_due(keras, tmp_path):
    size = 8 * FEATURES * 4 + 8 * 4
    recorder = FlightRecorder(tmp_path, snapshot_every=1_000, ring_bytes=3 * size, verbose=0)
    held = _watched_ring(keras, recorder)
    assert recorder.recorder.snapshot.step > 10
    assert max(held) == 4 + 2


def _watched_ring(keras, recorder):
    """Train twenty steps, and return how many batches were held after each."""
    held = []
    looks = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: held.append(len(recorder.recorder.ring))
    )
    x, y = data(samples=8 * 20)
    dropout().fit(x, y, batch_size=BATCH, verbose=0, callbacks=[recorder, looks])
    return held
