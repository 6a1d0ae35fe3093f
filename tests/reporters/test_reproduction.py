"""reproduce.py: a script of its own that shows the failure, with nothing in it from strangers."""

from __future__ import annotations

import ast
import os
import subprocess
import sys

import numpy as np
import pytest

from divergence_doctor.reporters import document
from divergence_doctor.reporters.reproduction import Reproduction, literal


def constants(text):
    """Return the script's settings by name, read without running it."""
    return {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant | ast.List | ast.Dict)
    }


def script(runs, **changes):
    asked = {**runs.context["reproduce"], **changes}
    trace = runs.diverged_trace(context={**runs.context, "reproduce": asked})
    return Reproduction().render(document(trace, runs.diagnosed(trace)))


def test_the_script_compiles_and_holds_what_was_replayed(told):
    text = Reproduction().render(told["diverged"])
    compile(text, "reproduce.py", "exec")
    settings = constants(text)
    assert settings["CHECKPOINT"] == "run 7/model.keras"
    assert settings["BATCHES"] == ["run 7/batch.npz"]
    assert settings["CUSTOM_OBJECTS"] == ["losses.py"]
    assert (settings["X"], settings["Y"], settings["SAMPLE_WEIGHT"]) == ("x", "y", None)
    assert (settings["EAGER"], settings["RUNAWAY"], settings["TRUST"]) == (True, None, False)
    assert "divergence_doctor" not in text


def test_hostile_names_become_literals_and_nothing_else(runs, told):
    text = Reproduction().render(told["hostile"])
    assert text.isascii()
    settings = constants(text)
    assert settings["CHECKPOINT"] == runs.hostile_name
    assert settings["LOSS"] == runs.hostile_name
    calm = ast.dump(ast.parse(script(runs)), include_attributes=False).count("Call(")
    assert ast.dump(ast.parse(text), include_attributes=False).count("Call(") == calm


def test_the_arrays_go_in_as_they_were_fed(runs):
    names = [{"image": "x/image", "tab": "x/tab"}, ["y_0", None], None]
    settings = constants(script(runs, names=names))
    assert [settings["X"], settings["Y"], settings["SAMPLE_WEIGHT"]] == names
    arrays = {"x": ["x_0", "x_1"], "y": ["y/p", "y/q"], "sample_weight": ["sample_weight"]}
    settings = constants(script(runs, arrays=arrays, input_structure="list"))
    assert settings["X"] == ["x_0", "x_1"]
    assert settings["Y"] == {"p": "y/p", "q": "y/q"}
    assert settings["SAMPLE_WEIGHT"] == "sample_weight"


def test_a_failure_of_the_compiled_step_is_shown_compiled(runs):
    trace = runs.diverged_trace()
    told = document(trace, runs.diagnosed(trace, stage="execution"))
    assert constants(Reproduction().render(told))["EAGER"] is False


def test_numbers_that_are_not_finite_become_floats():
    assert literal([float("nan"), float("-inf"), 1, None, True, "a'b", 'a"b']) == (
        '[float("nan"), float("-inf"), 1, None, True, "a\'b", \'a"b\']'
    )


def test_without_a_checkpoint_there_is_nothing_to_render(told):
    told = told["empty"]
    assert not Reproduction().suits(told)
    with pytest.raises(ValueError, match="which checkpoint and batch"):
        Reproduction().render(told)


MODEL = """
import keras

@keras.saving.register_keras_serializable("demo")
def log_loss(y_true, y_pred):
    return -keras.ops.mean(y_true * keras.ops.log(y_pred))

class NotRegistered(keras.layers.Layer):
    def call(self, x):
        return x
"""

MAKE = """
import keras
import losses

keras.utils.set_random_seed(0)
layers = [keras.Input((2,)), losses.NotRegistered(), keras.layers.Dense(1, activation="relu")]
model = keras.Sequential(layers)
model.compile(optimizer="sgd", loss=losses.log_loss)
model.layers[1].kernel.assign([[1.0], [1.0]])
model.save("model.keras")
"""


@pytest.mark.slow
def test_the_script_fails_while_the_step_fails_and_passes_once_it_is_mended(tmp_path, runs):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}

    def run(*words):
        return subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    (tmp_path / "losses.py").write_text(MODEL)
    (tmp_path / "make.py").write_text(MAKE)
    assert run("make.py").returncode == 0
    x = np.array([[1.0, 1.0], [-3.0, 1.0]])
    np.savez(tmp_path / "batch.npz", arr_0=x, arr_1=np.ones((2, 1)))
    np.savez(tmp_path / "good.npz", x=np.abs(x), y=np.ones((2, 1)))
    text = script(runs, checkpoint="model.keras", batch="batch.npz", steps=3)
    (tmp_path / "reproduce.py").write_text(text)

    failing = run("reproduce.py")
    assert failing.returncode == 1, failing.stderr
    assert "step 0: FAILS, the loss is inf" in failing.stdout

    mended = run("reproduce.py", "model.keras", "good.npz")
    assert mended.returncode == 0, mended.stderr
    assert "step 2: loss" in mended.stdout

    missing = run("reproduce.py", "other.keras")
    assert missing.returncode == 2
    assert missing.stderr.startswith("There is no other.keras.")

    (tmp_path / "broken.keras").write_bytes(b"PK no more")
    broken = run("reproduce.py", "broken.keras")
    assert broken.returncode == 2
    assert "broken.keras cannot be loaded" in broken.stdout
