"""Does the examination bring the reference and the step as it was trained into one verdict?"""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.examination import Request, examine

SAMPLES = Path(__file__).parents[1] / "sample_runs"

CUSTOM = '''
import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("made")
class Quotient(keras.layers.Layer):
    """Normalises twice; XLA makes a / (b * c) of it, and b * c underflows to 0."""

    def build(self, _shape):
        tiny = keras.initializers.Constant(1e-20)
        self.first = self.add_weight(shape=(4,), initializer=tiny, trainable=False)
        self.second = self.add_weight(shape=(4,), initializer=tiny, trainable=False)

    def call(self, x):
        return (x / self.first) / self.second * 1e-10


@keras.saving.register_keras_serializable("made")
class Hole(keras.layers.Layer):
    """Puts one row of NaN beside the others."""

    def call(self, x):
        return tf.concat([x, tf.fill((tf.shape(x)[0], 1, x.shape[-1]), float("nan"))], 1)
'''
X = np.random.default_rng(0).normal(size=(8, 4, 3)).astype("float32")
Y = np.random.default_rng(1).normal(size=(8, 1)).astype("float32")


@pytest.fixture
def saved(keras, tmp_path, monkeypatch):
    """Return a function that saves a model and a batch and gives the request for them."""
    name = f"made_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(CUSTOM, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    custom = importlib.import_module(name)

    def save(make, x, **fields):
        model = make(custom)
        model.compile("sgd", "mse", jit_compile=True)
        model.save(tmp_path / "model.keras")
        np.savez(tmp_path / "batch.npz", x=x, y=Y)
        return Request(
            checkpoint=str(tmp_path / "model.keras"), batches=(str(tmp_path / "batch.npz"),),
            custom_objects=(str(tmp_path / f"{name}.py"),), steps=2, **fields,
        )  # fmt: skip

    yield save
    sys.modules.pop(name, None)


def test_a_step_that_fails_under_xla_only_is_an_execution_mismatch_proven(keras, saved, tmp_path):
    request = saved(
        lambda custom: keras.Sequential(
            [keras.layers.Input((4,)), custom.Quotient(name="quotient"), keras.layers.Dense(1)]
        ),
        np.full((8, 4), 1e-30, "float32"),
    )
    trace = examine(request, tmp_path)
    verdict = diagnose(trace)
    assert (verdict.outcome, trace.failing_step) == ("diverged", 0)
    assert verdict.main.finding.cause == "execution-mismatch"
    assert verdict.main.finding.stage == "execution"
    assert verdict.main.finding.site.layer == "quotient"
    assert verdict.main.confirmed
    assert verdict.main.confirmed_by.changed == "run as a graph without XLA (jit_compile=False)"
    assert verdict.trials[0].name == "control"
    assert verdict.trials[0].outcome == "still-fails"
    said = trace.context["fidelity"]["execution"]
    assert said["reference"] == "eager, functions run eagerly"
    assert said["as_trained"].startswith("graph compiled by XLA (jit_compile=True)")


def test_without_xla_the_same_run_is_healthy_and_gets_no_cause(keras, saved, tmp_path):
    request = saved(
        lambda custom: keras.Sequential(
            [keras.layers.Input((4,)), custom.Quotient(name="quotient"), keras.layers.Dense(1)]
        ),
        np.full((8, 4), 1e-30, "float32"),
        jit=False,
    )
    trace = examine(request, tmp_path)
    verdict = diagnose(trace)
    assert (verdict.outcome, verdict.main) == ("healthy", None)
    assert "jit_compile is False, as --no-jit says" in trace.context["fidelity"]["notes"]


def test_what_nothing_explains_is_run_as_trained_in_the_end(keras, saved, tmp_path):
    request = saved(
        lambda custom: keras.Sequential(
            [keras.layers.Input((4, 3)), custom.Hole(), keras.layers.GlobalMaxPooling1D(),
             keras.layers.Dense(1)]
        ),
        X,
    )  # fmt: skip
    trace = examine(request, tmp_path)
    verdict = diagnose(trace)
    assert trace.context["failing_execution"] == "reference"
    assert verdict.main.finding.cause == "execution-mismatch"
    assert verdict.main.confirmed_by.changed == "run as it was trained instead of op by op"
    assert [trial.name for trial in verdict.trials].count("control") == 1


def sample(name, **fields):
    folder = SAMPLES / name
    return Request(
        checkpoint=str(folder / "model.keras"), batches=(str(folder / "batch.npz"),), **fields
    )


@pytest.mark.usefixtures("keras")
def test_a_hidden_nan_contributes_and_the_bad_input_stays_the_diagnosis(tmp_path):
    trace = examine(sample("nan_in_input"), tmp_path)
    verdict = diagnose(trace)
    assert verdict.main.finding.cause == "bad-input"
    assert [item.finding.cause for item in verdict.contributing] == ["execution-mismatch"]
    assert "a guard that watches the loss sees nothing" in verdict.contributing[0].finding.summary
    assert "not the same" in trace.context["fidelity"]["execution"]["as_trained"]


@pytest.mark.usefixtures("keras")
def test_bad_labels_stay_the_diagnosis_where_xla_makes_nan_of_them(tmp_path):
    trace = examine(sample("labels_out_of_range", jit=True), tmp_path)
    verdict = diagnose(trace)
    assert verdict.main.finding.cause == "bad-labels"
    found = [item.finding for item in verdict.contributing]
    assert [finding.cause for finding in found] == ["execution-mismatch"]
    assert "has a loss of nan" in found[0].summary
    assert "op by op it raises InvalidArgumentError" in found[0].summary


@pytest.mark.parametrize("what", ["nan", "negative slot", "scale"])
def test_the_last_sound_checkpoint_beside_a_broken_one_is_named(keras, tmp_path, what):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, kernel_regularizer="l2", name="hidden"),
            keras.layers.Dense(1),
        ]
    )
    model.compile("adam", "mse")
    kernel = model.get_layer("hidden").kernel
    for step in (1, 2, 3):
        model.train_on_batch(X[:, 0], Y)
        if step == 3:
            slot = next(v for v in model.optimizer.variables if "hidden_kernel_vel" in v.path)
            spoilt = (slot if what == "negative slot" else kernel).numpy()
            spoilt[1, 2] = {"nan": np.nan, "negative slot": -1e3, "scale": 1e25}[what]
            (slot if what == "negative slot" else kernel).assign(spoilt)
        model.save(tmp_path / f"step-{step}.keras")
    np.savez(tmp_path / "batch.npz", x=X[:, 0], y=Y)
    request = Request(str(tmp_path / "step-3.keras"), (str(tmp_path / "batch.npz"),))
    (tmp_path / "out").mkdir()
    trace = examine(request, tmp_path / "out")
    assert trace.context["last_good"] == {
        "file": "step-2.keras", "next": "step-3.keras", "oldest": "step-1.keras", "of": 2,
        "read": 1,
    }  # fmt: skip
    main = diagnose(trace).main
    expected = "corrupt-optimizer-state" if what == "negative slot" else "corrupt-weights"
    assert (main.finding.cause, main.confirmed) == (expected, True)
    assert main.finding.remedies[0].startswith("Go back to step-2.keras")
