from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import h5py
import keras
import numpy as np
import pytest

from divergence_doctor.checkpoints import OpenOptions, choose, open_checkpoint
from divergence_doctor.errors import CheckpointError, RefusedError

if TYPE_CHECKING:
    from pathlib import Path


def stepped(model: Any) -> Any:
    batch = (keras.ops.ones((4, 4)), keras.ops.zeros((4, 1)))
    for _ in range(2):
        model.train_step(batch)
    return model


def load(path: Path, **options: Any) -> Any:
    return open_checkpoint(path, OpenOptions(**options))


def same(mine: Any, theirs: Any) -> None:
    for left, right in zip(mine, theirs, strict=True):
        np.testing.assert_array_equal(left.numpy(), right.numpy())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(1)(keras.ops.log(keras.layers.Dense(3)(inputs) + 9.0))
    model = keras.Model(inputs, outputs)
    model.compile("adam", "mse", metrics=["mae"])
    path = tmp_path_factory.mktemp("legacy") / "model.h5"
    stepped(model).save(path)
    return model, path


def test_a_model_with_ops_and_short_loss_names_comes_back(trained):
    model, path = trained
    opened = load(path)
    same(opened.model.weights, model.weights)
    same(opened.model.optimizer.variables, model.optimizer.variables)
    assert opened.fidelity["optimizer_state"] == "restored"
    assert opened.fidelity["random_state"] == "restored"
    assert opened.source["format"] == "legacy whole-model .h5"
    assert opened.source["keras_version"] == keras.__version__


def test_the_content_counts_and_not_the_suffix(trained, tmp_path):
    (tmp_path / "model.bin").write_bytes(trained[1].read_bytes())
    assert choose(tmp_path / "model.bin", OpenOptions()).name == "legacy whole-model .h5"
    assert load(tmp_path / "model.bin").fidelity["optimizer_state"] == "restored"


def test_a_loss_scale_comes_back_variable_by_variable(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        stepped(model).optimizer.dynamic_scale.assign(256.0)
        model.save(tmp_path / "m.h5")
    finally:
        keras.config.set_dtype_policy("float32")
    opened = load(tmp_path / "m.h5")
    assert float(opened.model.optimizer.dynamic_scale) == 256.0
    same(opened.model.optimizer.variables, model.optimizer.variables)
    assert opened.fidelity["optimizer_state"] == "restored"


def test_unknown_objects_are_named_all_at_once_and_found_in_the_users_code(tmp_path):
    space: dict[str, Any] = {"__name__": "__main__"}
    text = (
        "import keras\n"
        "class Shift(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return x + 1.0\n"
        "def far(y_true, y_pred):\n"
        "    return keras.ops.mean(y_true - y_pred)\n"
    )
    exec(text, space)  # noqa: S102 - the user's own script, as it ran
    model = keras.Sequential([keras.Input((4,)), space["Shift"](), keras.layers.Dense(1)])
    model.compile("sgd", space["far"])
    model.save(tmp_path / "m.h5")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "m.h5")
    assert caught.value.slug == "unknown-custom-objects"
    assert "class 'Shift'" in caught.value.message
    assert "function 'far'" in caught.value.message
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    opened = load(tmp_path / "m.h5", custom_objects=(str(tmp_path / "mine.py"),))
    assert opened.model.loss.__name__ == "far"


def test_a_lambda_is_refused(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Lambda(lambda x: x)])
    model.compile("sgd", "mse")
    model.save(tmp_path / "m.h5")
    with pytest.raises(RefusedError) as caught:
        load(tmp_path / "m.h5")
    assert caught.value.slug == "unsafe-lambda"
    assert load(tmp_path / "m.h5", trust=True).model is not None


def test_a_model_saved_without_compiling_says_what_to_pass(tmp_path):
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)]).save(tmp_path / "m.h5")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path / "m.h5")
    assert caught.value.slug == "not-compiled"
    opened = load(tmp_path / "m.h5", loss="mse", optimizer="sgd")
    assert opened.fidelity["optimizer_state"] == "missing"


def test_every_truncation_is_refused(trained, tmp_path):
    whole = trained[1].read_bytes()
    for part in (0.5, 0.9, 0.99):
        (tmp_path / "cut.h5").write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(RefusedError) as caught:
            load(tmp_path / "cut.h5")
        assert caught.value.slug == "damaged-checkpoint"


def test_a_config_that_is_no_json_is_refused(trained, tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(trained[1].read_bytes())
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = "{"
    with pytest.raises(RefusedError, match="cannot be read"):
        load(path)


def test_a_config_that_asks_for_what_no_model_needs_is_refused(trained, tmp_path):
    path = tmp_path / "m.h5"
    path.write_bytes(trained[1].read_bytes())
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["config"]["activation"] = {
            "module": "keras.config",
            "class_name": "function",
            "config": "set_floatx",
            "registered_name": None,
        }
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(RefusedError) as caught:
        load(path)
    assert caught.value.slug == "unsafe-config"
