"""The recorder changes nothing: the same weights, to the bit, with it and without it."""

# ruff: noqa: ARG002, ARG005 - Keras calls callbacks and layers with what it calls them with

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from divergence_doctor import FlightRecorder
from tests.capture._models import BATCH, FEATURES, KINDS, MODES, assert_same, custom, data, dropout

ROOT = Path(__file__).parents[2]


def _fit(model, *, callbacks=(), given=None, **how):
    # XLA compiles anew for the size of a partial last batch.
    x, y = data(samples=48 if model.jit_compile else 52)
    return model.fit(
        *(given or (x, y)), epochs=2, batch_size=None if given else BATCH, verbose=0,
        callbacks=list(callbacks), **how,
    )  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_final_weights_are_the_same_to_the_bit(keras, tmp_path, kind, mode):
    plain, recorded = KINDS[kind](**MODES[mode]), KINDS[kind](**MODES[mode])
    keras.utils.set_random_seed(1)
    before = _fit(plain)
    keras.utils.set_random_seed(1)
    recorder = FlightRecorder(tmp_path, snapshot_every=3)
    after = _fit(recorded, callbacks=[recorder])
    assert_same(plain, recorded)
    assert before.history == after.history
    assert recorder.recorder.step == 2 * (6 if mode == "jit" else 7)
    assert not recorder.failed


@pytest.mark.parametrize("mode", MODES)
def test_it_is_the_same_with_several_steps_per_execution(keras, tmp_path, mode):
    plain = dropout(steps_per_execution=3, **MODES[mode])
    recorded = dropout(steps_per_execution=3, **MODES[mode])
    keras.utils.set_random_seed(1)
    _fit(plain)
    keras.utils.set_random_seed(1)
    recorder = FlightRecorder(tmp_path, snapshot_every=1)
    _fit(recorded, callbacks=[recorder])
    assert_same(plain, recorded)
    assert recorder.recorder.step == 2 * (6 if mode == "jit" else 7)


def test_no_graph_is_traced_twice_for_a_partial_last_batch(keras, tmp_path):
    from divergence_doctor.capture import _seams

    plain, recorded = dropout(), dropout()
    _fit(plain)
    _fit(recorded, callbacks=[FlightRecorder(tmp_path)])
    once, again = (_seams.one_step(model.train_function) for model in (plain, recorded))
    assert again.experimental_get_tracing_count() == once.experimental_get_tracing_count()
    assert f"(None, {FEATURES})" in again.pretty_printed_concrete_signatures()
    assert f"({BATCH}, {FEATURES})" not in again.pretty_printed_concrete_signatures()


def test_the_train_function_of_keras_is_back_after_fit(keras, tmp_path):
    model = dropout()
    model.make_train_function()
    original = model.train_function
    _fit(model, callbacks=[FlightRecorder(tmp_path)])
    assert model.train_function is original
    assert "make_train_function" not in vars(model)


def test_a_fit_that_another_callback_ended_leaves_nothing_behind(keras, tmp_path):
    class Raises(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyError("mine")

    model, plain = dropout(), dropout()
    recorder = FlightRecorder(tmp_path)
    for one, callbacks in ((model, [recorder, Raises()]), (plain, [Raises()])):
        with pytest.raises(KeyError, match="mine"):
            _fit(one, callbacks=callbacks)
    steps = recorder.recorder.step
    _fit(model)
    _fit(plain)
    assert_same(model, plain)
    assert recorder.recorder.step == steps
    assert not recorder.bundles


def test_a_model_that_its_first_step_builds_draws_the_same_weights(keras, tmp_path):
    def build():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.layers.Dense(5, "relu"), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        return model

    plain, recorded = build(), build()
    _fit(plain)
    _fit(recorded, callbacks=[FlightRecorder(tmp_path, snapshot_every=1)])
    assert_same(plain, recorded)


def test_train_on_batch_is_the_same_in_a_watched_loop(keras, tmp_path):
    x, y = data()
    plain, recorded = dropout(), dropout()
    recorder = FlightRecorder(tmp_path, model=recorded, snapshot_every=1)
    for start in range(0, 48, 8):
        part = slice(start, start + 8)
        one = plain.train_on_batch(x[part], y[part])
        with recorder.step((x[part], y[part])) as step:
            step.loss = recorded.train_on_batch(x[part], y[part])
        assert one == step.loss
    assert_same(plain, recorded)


def _generator():
    x, y = data()
    while True:
        for start in range(0, 48, 8):
            yield x[start : start + 8], y[start : start + 8]


def _datasets(keras):
    import tensorflow as tf

    x, y = data()
    pairs = tf.data.Dataset.from_tensor_slices((x, y))

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            part = slice(8 * index, 8 * index + 8)
            return x[part], y[part], np.ones(8, np.float32)

    return {
        "tf.data": (pairs.shuffle(64, seed=3).batch(8), {"shuffle": False}),
        "of unknown length": (pairs.filter(lambda x, y: x[0] > 0.3).batch(8), {"shuffle": False}),
        "PyDataset": (Batches(), {}),
        "generator": (_generator(), {"steps_per_epoch": 6, "shuffle": False}),
        "endless": (pairs.repeat().batch(8), {"steps_per_epoch": 5, "shuffle": False}),
    }  # fmt: skip


@pytest.mark.parametrize(
    "source", ["tf.data", "of unknown length", "PyDataset", "generator", "endless"]
)
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_every_kind_of_input_is_taken_as_fit_takes_it(keras, tmp_path, source):
    models = []
    for callbacks in ([], [FlightRecorder(tmp_path, snapshot_every=2)]):
        model = dropout()
        given, how = _datasets(keras)[source]
        keras.utils.set_random_seed(1)
        model.fit(given, epochs=3, verbose=0, callbacks=callbacks, **how)
        models.append(model)
    assert_same(*models)


def test_data_that_ends_early_ends_training_with_the_warning_of_keras(keras, tmp_path):
    x, y = data()

    def short():
        for start in range(0, 24, 8):
            yield x[start : start + 8], y[start : start + 8]

    models = []
    for callbacks in ([], [FlightRecorder(tmp_path)]):
        model = dropout()
        with pytest.warns(UserWarning, match="ran out of data"):
            model.fit(short(), epochs=3, steps_per_epoch=5, verbose=0, shuffle=False,
                      callbacks=callbacks)  # fmt: skip
        models.append(model)
    assert_same(*models)


def test_it_gets_along_with_other_callbacks(keras, tmp_path):
    models = []
    for with_it in (False, True):
        model = custom()
        callbacks = [
            keras.callbacks.LearningRateScheduler(lambda epoch: 0.01 / (epoch + 1)),
            keras.callbacks.ModelCheckpoint(str(tmp_path / f"{with_it}.weights.h5"),
                                            save_weights_only=True, save_freq=2),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: None),
        ]  # fmt: skip
        if with_it:
            callbacks.insert(1, FlightRecorder(tmp_path / "crashes", snapshot_every=2))
        keras.utils.set_random_seed(1)
        _fit(model, callbacks=callbacks, validation_split=0.2)
        models.append(model)
    assert_same(*models)


MIRRORED = f"""
import sys
import numpy as np, keras, tensorflow as tf
device = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * 2)
from divergence_doctor import FlightRecorder
from divergence_doctor.bundle import open_bundle, verify
from tests.capture._models import assert_same, poisoned, data

def build():
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input(({FEATURES},)), keras.layers.Dense(5, "relu"),
            keras.layers.BatchNormalization(), keras.layers.Dropout(0.4), keras.layers.Dense(1)])
        model.compile("adam", "mse")
    return model

models = []
for callbacks in ([], [FlightRecorder(sys.argv[1], snapshot_every=2)]):
    model = build()
    keras.utils.set_random_seed(1)
    model.fit(*data(), batch_size=8, epochs=2, verbose=0, callbacks=callbacks)
    models.append(model)
assert_same(*models)
print("same")

recorder = FlightRecorder(sys.argv[1], snapshot_every=2, verbose=0)
x, y = poisoned()
build().fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[recorder])
bundle = open_bundle(recorder.bundles[0])
assert not verify(bundle.path)
ran = bundle.manifest["execution"]
print("strategy", ran["strategy"], ran["replicas"])
last = bundle.batches[-1]
with np.load(last.path) as arrays:
    assert np.array_equal(arrays["x"], x[16:24]), arrays["x"]
    assert np.array_equal(arrays["y"], y[16:24], equal_nan=True)
print("step", bundle.reason["step"], bundle.reason["trigger"])
"""


def test_under_a_mirrored_strategy_the_global_batch_is_kept_and_nothing_changes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED, str(tmp_path / "crashes")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-3:] == [
        "same",
        "strategy MirroredStrategy 2",
        "step 2 non-finite-loss",
    ]
