"""Is every gap between the file and the opened model told, by name?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from divergence_doctor.checkpoints import OpenOptions, open_checkpoint
from divergence_doctor.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

FACTORY = """
import keras

def layers(*more, rate=0.5):
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name="first"),
            keras.layers.BatchNormalization(name="norm"),
            *more,
            keras.layers.Dense(1, name="head"),
        ]
    )

def build():
    model = layers()
    model.compile("adam", "mse")
    return model

def deeper():
    model = layers(keras.layers.Dense(3, name="extra"))
    model.compile("adam", "mse")
    return model

def dropping():
    model = layers(keras.layers.Dropout(0.5, name="mask"))
    model.compile("adam", "mse")
    return model

def scheduled():
    model = layers()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 10, 0.1)
    model.compile(keras.optimizers.Adam(schedule), "mse")
    return model

def rms():
    model = layers()
    model.compile(keras.optimizers.RMSprop(), "mse")
    return model

def momentum():
    model = layers()
    model.compile(keras.optimizers.SGD(momentum=0.9), "mse")
    return model

def half():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, dtype="float16")])
    model.compile("sgd", "mse")
    return model

def whole():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model

def swapped():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(3, name="b"), keras.layers.Dense(3, name="a")]
    )
    model.compile("sgd", "mse")
    return model

def straight():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(3, name="b")]
    )
    model.compile("sgd", "mse")
    return model
"""


def made(name: str, *, steps: int = 2) -> Any:
    space: dict[str, Any] = {}
    exec(FACTORY, space)  # noqa: S102 - the user's own script, as it ran
    model = space[name]()
    x = np.random.default_rng(0).normal(size=(8, *model.input_shape[1:])).astype("f4")
    batch = (keras.ops.convert_to_tensor(x), keras.ops.ones((8, 1)))
    for _ in range(steps):
        model.train_step(batch)
    return model


@pytest.fixture
def opened(tmp_path):
    """Return a function that opens a file into the model of one of the factory's functions."""
    (tmp_path / "factory.py").write_text(FACTORY, encoding="utf-8")

    def load(path: Path, name: str | None = None, **options: Any) -> Any:
        factory = None if name is None else f"{tmp_path / 'factory.py'}:{name}"
        return open_checkpoint(path, OpenOptions(model=factory, **options))

    return load


def written(path: Path, change: Any) -> Path:
    """Change a weights file in place, as a script that edits checkpoints would."""
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def weights(model: Any, folder: Path) -> Path:
    model.save_weights(folder / "m.weights.h5")
    return folder / "m.weights.h5"


def tf_files(model: Any, folder: Path, **more: Any) -> Path:
    tf.train.Checkpoint(model=model, **more).write(str(folder / "ckpt"))
    return folder / "ckpt"


# --- nothing to tell ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["keras", "h5", "weights", "tf"])
def test_a_file_that_the_model_took_whole_leaves_nothing_to_tell(tmp_path, opened, form):
    model = made("build")
    if form in ("keras", "h5"):
        model.save(tmp_path / f"m.{form}")
        fidelity = opened(tmp_path / f"m.{form}").fidelity
    else:
        path = (weights if form == "weights" else tf_files)(model, tmp_path)
        fidelity = opened(path, "build").fidelity
    told = ["A legacy .h5 keeps no run mode (jit_compile, steps_per_execution)."]
    assert fidelity == {
        "optimizer_state": "restored",
        "random_state": "restored",
        "notes": told if form == "h5" else [],
    }


@pytest.mark.parametrize("policy", ["bfloat16", "float16", "mixed_bfloat16", "float64"])
@pytest.mark.parametrize("form", ["keras", "tf"])
def test_every_dtype_is_compared_bit_by_bit(tmp_path, opened, policy, form):
    keras.config.set_dtype_policy(policy)
    try:
        model = made("build")
        model.save(tmp_path / "m.keras")
        if form == "tf":
            fidelity = opened(tf_files(model, tmp_path), "build").fidelity
    finally:
        keras.config.set_dtype_policy("float32")
    if form == "keras":
        fidelity = opened(tmp_path / "m.keras").fidelity
    assert fidelity == {"optimizer_state": "restored", "random_state": "restored", "notes": []}


@pytest.mark.parametrize("form", ["keras", "tf"])
def test_an_optimizer_that_never_stepped_is_as_fresh_as_it_was(tmp_path, opened, form):
    model = made("build", steps=0)
    if form == "keras":
        model.save(tmp_path / "m.keras")
        fidelity = opened(tmp_path / "m.keras").fidelity
    else:
        fidelity = opened(tf_files(model, tmp_path), "build").fidelity
    assert fidelity["optimizer_state"] == "restored"
    assert fidelity["notes"] == [
        (
            "The optimizer had not taken a step when the file was written: it starts as fresh as it"
            " was."
        )
    ]


# --- weights --------------------------------------------------------------------------------------


def test_a_layer_of_the_file_that_the_model_lacks_is_told(tmp_path, opened):
    model = made("deeper")
    names = [layer.name for layer in model.layers]
    assert names == ["first", "norm", "extra", "head"]
    # Of three dense layers in the file the factory's model has two.
    written(
        weights(made("build"), tmp_path),
        lambda file: file.create_dataset("layers/dense_2/vars/0", data=np.ones((3, 3), "f4")),
    )
    notes = opened(tmp_path / "m.weights.h5", "build").fidelity["notes"]
    assert notes == [
        (
            "The file holds layers/dense_2/vars/0, of which the model took nothing: it is not the"
            " model that was trained, or not all of it."
        )
    ]


@pytest.mark.parametrize("form", ["weights", "legacy"])
def test_weights_that_went_to_a_layer_of_another_name_are_told(tmp_path, opened, form):
    model = made("straight", steps=0)
    if form == "weights":
        fidelity = opened(weights(model, tmp_path), "swapped").fidelity
    else:
        model.save(tmp_path / "m.h5")
        fidelity = opened(tmp_path / "m.h5", "swapped").fidelity
    told = [note for note in fidelity["notes"] if "other names" in note]
    assert told == [
        (
            "Weights went to layers of other names: b took what a left, a took what b left. The"
            " order of the layers may not be that of the training."
        )
    ]


def test_weights_with_more_digits_than_the_model_keeps_are_told(tmp_path, opened):
    model = made("whole", steps=0)
    model.layers[0].kernel.assign(np.full((4, 1), 1 / 3, "f4"))
    notes = opened(weights(model, tmp_path), "half").fidelity["notes"]
    assert any("with more digits than the dtype of the model keeps" in note for note in notes)
    assert any("kernel" in note for note in notes)


def test_moving_statistics_that_a_custom_layer_does_not_load_are_told(tmp_path, opened):
    (tmp_path / "mine.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('mine')\n"
        "class Norm(keras.layers.BatchNormalization):\n"
        "    def load_own_variables(self, store):\n"
        "        self.gamma.assign(store['0'])\n",
        encoding="utf-8",
    )
    from divergence_doctor.checkpoints._user_code import import_user_code

    norm = import_user_code(str(tmp_path / "mine.py")).Norm
    model = keras.Sequential([keras.Input((4,)), norm(name="norm"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.train_step((keras.ops.ones((4, 4)), keras.ops.zeros((4, 1))))
    model.save(tmp_path / "m.keras")
    notes = opened(tmp_path / "m.keras", custom_objects=(str(tmp_path / "mine.py"),)).fidelity[
        "notes"
    ]
    told = next(note for note in notes if "moving statistic" in note)
    assert "norm/moving_mean" in told
    assert "norm/moving_variance" in told
    assert "does not hold what the file holds" in told


def test_a_large_file_is_told_not_to_have_been_compared(tmp_path, opened, monkeypatch):
    monkeypatch.setattr("divergence_doctor.checkpoints._comparison.MOST_BYTES", 1 << 10)
    made("build").save(tmp_path / "m.keras")
    fidelity = opened(tmp_path / "m.keras").fidelity
    assert any("not compared value by value" in note for note in fidelity["notes"])
    assert fidelity["optimizer_state"] == "restored"


def test_a_custom_layer_that_cannot_be_saved_again_is_told_and_opened(tmp_path, opened):
    (tmp_path / "odd.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('odd')\n"
        "class Odd(keras.layers.Dense):\n"
        "    saves = 1\n"
        "    def save_own_variables(self, store):\n"
        "        if not Odd.saves:\n"
        "            raise OSError('no disk')\n"
        "        Odd.saves -= 1\n"
        "        super().save_own_variables(store)\n",
        encoding="utf-8",
    )
    from divergence_doctor.checkpoints._user_code import import_user_code

    model = keras.Sequential([keras.Input((4,)), import_user_code(str(tmp_path / "odd.py")).Odd(1)])
    model.compile("adam", "mse")
    model.train_step((keras.ops.ones((4, 4)), keras.ops.zeros((4, 1))))
    model.save(tmp_path / "m.keras")
    fidelity = opened(tmp_path / "m.keras", custom_objects=(str(tmp_path / "odd.py"),)).fidelity
    assert fidelity["optimizer_state"] == "restored"
    assert fidelity["notes"][0].startswith(
        "The model was not compared with the file: OSError: no disk"
    )


# --- the optimizer --------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["weights", "tf"])
def test_a_schedule_that_restarts_at_zero_is_told_with_its_rate(tmp_path, opened, form):
    bare = keras.Sequential.from_config(made("build").get_config())
    path = (weights if form == "weights" else tf_files)(bare, tmp_path)
    fidelity = opened(path, "scheduled").fidelity
    assert fidelity["optimizer_state"] == "missing"
    assert fidelity["notes"] == [
        "The optimizer starts fresh: the file holds none of its state.",
        (
            "The schedule ExponentialDecay restarts at step 0, with a learning rate of 0.5: the"
            " step counter of the training was not restored."
        ),
    ]


def test_a_schedule_that_goes_on_where_it_was_is_not_told(tmp_path, opened):
    fidelity = opened(weights(made("scheduled"), tmp_path), "scheduled").fidelity
    assert fidelity["notes"] == []


def test_a_step_counter_at_zero_beside_slots_in_use_is_told(tmp_path, opened):
    model = made("scheduled")
    model.optimizer.iterations.assign(0)
    for path, name in ((weights(model, tmp_path), "scheduled"), (tmp_path / "m.keras", None)):
        model.save(tmp_path / "m.keras")
        notes = opened(path, name).fidelity["notes"]
        assert "counts its steps from 0 although its slots are not fresh" in notes[0]
        assert "momentum" in notes[0]
        assert notes[1].startswith("The schedule ExponentialDecay restarts at step 0")


def test_slots_that_a_tf_checkpoint_lacks_are_told(tmp_path, opened):
    model = made("build", steps=0)
    model.optimizer.iterations.assign(7)
    fidelity = opened(tf_files(model, tmp_path), "build").fidelity
    assert fidelity["optimizer_state"] == "partial"
    told = next(note for note in fidelity["notes"] if "variables of the optimizer" in note)
    assert told.startswith("12 of the 14 variables of the optimizer (adam")
    assert told.endswith("are not what the training left.")


def test_a_tf_checkpoint_of_another_optimizer_says_what_does_not_fit(tmp_path, opened):
    path = tf_files(made("momentum"), tmp_path)
    with pytest.raises(CheckpointError) as caught:
        opened(path, "build")
    assert caught.value.slug == "model-mismatch"
    assert "shape" in caught.value.why
    assert "its optimizer" in caught.value.fix


def test_another_optimizer_of_the_same_size_is_told(tmp_path, opened):
    fidelity = opened(weights(made("rms"), tmp_path), "momentum").fidelity
    told = [note for note in fidelity["notes"] if "other names" in note]
    assert len(told) == 1
    assert "took what rm_sprop left" in told[0]


def test_an_optimizer_of_another_size_starts_fresh_and_says_so(tmp_path, opened):
    fidelity = opened(weights(made("build"), tmp_path), "momentum").fidelity
    assert fidelity["optimizer_state"] == "missing"
    assert (
        "The optimizer starts fresh: the state that the file holds does not fit it."
        in fidelity["notes"]
    )


def test_what_hangs_beside_the_model_in_a_tf_checkpoint_is_told(tmp_path, opened):
    path = tf_files(made("build"), tmp_path, epoch=tf.Variable(17))
    notes = opened(path, "build").fidelity["notes"]
    assert notes == ["Beside the model the checkpoint holds epoch, which was not needed."]
    path = tf_files(made("build"), tmp_path, old=tf.Variable(np.arange(5.0)))
    notes = opened(path, "build").fidelity["notes"]
    assert len(notes) == 1
    assert notes[0].startswith("The file holds old, of which the model took nothing")


# --- loss scale -----------------------------------------------------------------------------------


def mixed(name: str, *, scale: float) -> Any:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = made(name)
        model.optimizer.dynamic_scale.assign(scale)
    finally:
        keras.config.set_dtype_policy("float32")
    return model


@pytest.mark.parametrize("form", ["weights", "tf"])
def test_a_loss_scale_without_a_policy_has_the_factory_called_under_mixed_float16(
    tmp_path, opened, form
):
    model = mixed("build", scale=64.0)
    path = (weights if form == "weights" else tf_files)(model, tmp_path)
    found = opened(path, "build")
    assert type(found.model.optimizer).__name__ == "LossScaleOptimizer"
    assert float(found.model.optimizer.dynamic_scale) == 64.0
    assert found.model.layers[0].compute_dtype == "float16"
    assert found.fidelity["optimizer_state"] == "restored"
    assert len(found.fidelity["notes"]) == 1
    assert "was built under the policy mixed_float16" in found.fidelity["notes"][0]
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.parametrize("form", ["keras", "h5"])
def test_an_archive_in_mixed_precision_says_that_its_loss_scale_was_kept(tmp_path, opened, form):
    mixed("build", scale=64.0).save(tmp_path / f"m.{form}")
    found = opened(tmp_path / f"m.{form}")
    assert float(found.model.optimizer.dynamic_scale) == 64.0
    assert found.fidelity["notes"][-1] == (
        "The file was written under the policy mixed_float16 and is opened under it, with its loss"
        " scale of 64; under float32 Keras drops the LossScaleOptimizer."
    )


def test_a_loss_scale_that_the_factory_has_no_use_for_is_told(tmp_path, opened):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = made("whole")
    finally:
        keras.config.set_dtype_policy("float32")
    (tmp_path / "fixed.py").write_text(
        "import keras\n"
        "def build():\n"
        "    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])\n"
        "    model.compile('sgd', 'mse', auto_scale_loss=False)\n"
        "    return model\n",
        encoding="utf-8",
    )
    found = open_checkpoint(
        weights(model, tmp_path), OpenOptions(model=f"{tmp_path / 'fixed.py'}:build")
    )
    assert "the steps run without it" in found.fidelity["notes"][0]
    assert found.model.layers[0].compute_dtype == "float32"


# --- random state ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["keras", "h5", "weights", "tf"])
def test_the_layers_whose_random_state_is_missing_are_named(tmp_path, opened, form):
    model = made("dropping")
    if form in ("keras", "h5"):
        model.save(tmp_path / f"m.{form}")
        found = opened(tmp_path / f"m.{form}")
    else:
        path = (weights if form == "weights" else tf_files)(model, tmp_path)
        found = opened(path, "dropping")
    assert found.fidelity["random_state"] == "missing"
    assert "1 random generator (Dropout mask)" in found.fidelity["notes"][-1]
    assert [state.path.rpartition("/")[2] for state in found.unseeded] == ["seed_generator_state"]


def test_a_tf_checkpoint_of_all_variables_brings_the_random_state_back(tmp_path, opened):
    model = made("dropping")
    tf.train.Checkpoint(variables=list(model.variables)).write(str(tmp_path / "ckpt"))
    found = opened(tmp_path / "ckpt", "dropping")
    assert found.fidelity["random_state"] == "restored"
    assert found.unseeded == ()
    np.testing.assert_array_equal(
        found.model.get_layer("mask").seed_generator.state.numpy(),
        model.get_layer("mask").seed_generator.state.numpy(),
    )
