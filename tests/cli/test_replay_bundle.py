"""Is what the flight recorder leaves of real training runs explained by `doctor replay` alone?"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = '''
import sys
import keras
import numpy as np
import tensorflow as tf
from divergence_doctor import FlightRecorder

layers = keras.layers


class Block(layers.Layer):
    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units
        self.dense = layers.Dense(units, activation="relu")
        self.drop = layers.Dropout(0.3)

    def call(self, x, training=False):
        return self.drop(self.dense(x), training=training)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Own(keras.Model):
    """A model with a training step of its own, whose layers make their weights when called."""

    def __init__(self, **options):
        super().__init__(**options)
        self.block = Block(8)
        self.out = layers.Dense(1)

    def call(self, x, training=False):
        return self.out(self.block(x, training=training))

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = keras.ops.mean((self(x, training=True) - y) ** 2)
        gradients = tape.gradient(loss, self.trainable_weights)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights))
        self._loss_tracker.update_state(loss)
        return {"loss": self._loss_tracker.result()}


keras.utils.set_random_seed(3)
rng = np.random.default_rng(0)
x = rng.normal(size=(96, 4)).astype("float32")
y = rng.normal(size=(96, 1)).astype("float32")
x[70, 2] = np.inf


def functional():
    inputs = keras.Input((4,))
    middle = layers.BatchNormalization()(layers.Dense(8, activation="relu")(inputs))
    model = keras.Model(inputs, layers.Dense(1)(layers.Dropout(0.4)(middle)))
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[FlightRecorder("functional")])


def own():
    model = Own()
    model.compile(keras.optimizers.Adam(0.01), jit_compile=True)
    for epoch in range(1):
        model.fit(x, y, batch_size=8, verbose=0, shuffle=False,
                  callbacks=[FlightRecorder("own", snapshot_every=4)])


def loop():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(8, activation="relu"),
                              layers.Dropout(0.3), layers.Dense(1)])
    optimizer, loss_of = keras.optimizers.Adam(0.01), keras.losses.MeanSquaredError()
    recorder = FlightRecorder("loop", model=model, optimizer=optimizer, loss=loss_of)

    @tf.function
    def train(a, b):
        with tf.GradientTape() as tape:
            loss = loss_of(b, model(a, training=True))
        gradients = tape.gradient(loss, model.trainable_weights)
        optimizer.apply_gradients(zip(gradients, model.trainable_weights))
        return loss

    for at in range(0, 96, 8):
        batch = x[at:at + 8], y[at:at + 8]
        with recorder.step(batch) as step:
            step.loss = train(*batch)
        if not np.isfinite(step.loss):
            break


functional()
own()
loop()
raise SystemExit("trained to the end")
'''


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """The folder of a script that trained three models, and each died of the same cell."""
    folder = tmp_path_factory.mktemp("crashed")
    (folder / "train.py").write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert "trained to the end" in done.stderr, done.stderr[-2000:]
    return folder


def bundle_of(crashed: Path, form: str) -> Path:
    (path,) = (crashed / form).glob("crash-*")
    return path


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_functional_model_fitted_on_arrays(doctor, crashed, elsewhere):
    said = doctor(
        "replay", bundle_of(crashed, "functional"), "--fail-on-divergence", "--out", "out"
    )
    assert said.status == 3, said.err
    told = report(elsewhere / "out")
    assert (told["diagnosis"]["cause"], told["diagnosis"]["confirmed"]) == ("bad-input", True)
    assert told["fidelity"]["optimizer_state"] == told["fidelity"]["random_state"] == "restored"
    losses = told["fidelity"]["recorded"]["losses"]
    assert losses["equal"] == losses["compared"] > 0
    assert (elsewhere / "out" / "before.keras").is_file()
    with np.load(elsewhere / "out" / "minimal_batch.npz") as batch:
        assert np.isinf(batch["x"]).sum() == 1


@pytest.mark.slow
def test_a_model_of_the_scripts_own_classes_compiled_by_xla(doctor, crashed, elsewhere):
    path = bundle_of(crashed, "own")
    script = crashed / "train.py"
    said = doctor("replay", path, "--out", "out")
    said.assert_refused(2, "unknown-custom-objects", "Own", f"--custom-objects {script}")
    assert not (elsewhere / "out").exists()
    said = doctor("replay", path, "--custom-objects", script, "--out", "out")
    assert said.status == 0, said.err
    assert len(list((crashed / "own").glob("crash-*"))) == 1, "it trained again"
    told = report(elsewhere / "out")
    assert told["diagnosis"]["cause"] == "bad-input"
    assert told["fidelity"]["recorded"]["mode"] == "xla"
    assert told["fidelity"]["recorded"]["snapshot"] == 8
    assert told["fidelity"]["recorded"]["first_bad"] == 8
    losses = told["fidelity"]["recorded"]["losses"]
    assert losses["equal"] == losses["compared"]


@pytest.mark.slow
def test_a_loop_of_ones_own(doctor, crashed, elsewhere):
    said = doctor("replay", bundle_of(crashed, "loop"), "--no-trials", "--out", "out")
    assert said.status == 0, said.err
    told = report(elsewhere / "out")
    assert told["diagnosis"]["cause"] == "bad-input"
    assert told["fidelity"]["optimizer_state"] == "restored"
    losses = told["fidelity"]["recorded"]["losses"]
    assert losses["equal"] == losses["compared"] > 0


# ---------------------------------------------------------------------- what is refused


def test_a_folder_that_was_not_written_to_its_end_names_salvage(doctor, tmp_path):
    folder = tmp_path / ".crash-20261125T160023Z-host-w0-1-0-ab12.partial"
    folder.mkdir()
    (folder / "reason.json").write_text("{}", encoding="utf-8")
    doctor("replay", folder).assert_refused(4, "doctor salvage")


def test_a_plain_checkpoint_still_needs_a_batch(doctor):
    from tests.cli.conftest import SAMPLES

    said = doctor("replay", SAMPLES / "log_of_zero" / "model.keras")
    said.assert_refused(2, "no-batch", "np.savez")
