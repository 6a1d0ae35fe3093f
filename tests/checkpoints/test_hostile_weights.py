"""Are damaged and made-up weights refused: no traceback, nothing allocated on their word?"""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING, Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from divergence_doctor.checkpoints import OpenOptions, open_checkpoint
from divergence_doctor.errors import CheckpointError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FACTORY = """
import keras

def build():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model
"""

INDEX, DATA = "ckpt.index", "ckpt.data-00000-of-00001"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with the factory, a tf.train.Checkpoint and a weights file of its model."""
    folder: Path = tmp_path_factory.mktemp("whole")
    (folder / "factory.py").write_text(FACTORY, encoding="utf-8")
    space: dict[str, Any] = {}
    exec(FACTORY, space)  # noqa: S102 - the user's own script, as it ran
    model = space["build"]()
    model.train_step((keras.ops.ones((4, 4)), keras.ops.ones((4, 1))))
    tf.train.Checkpoint(model=model).write(str(folder / "ckpt"))
    model.save_weights(folder / "m.weights.h5")
    return folder


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    shutil.copytree(whole, tmp_path / "here")
    return tmp_path / "here"


def opening(folder: Path, name: str = "ckpt") -> Any:
    return open_checkpoint(folder / name, OpenOptions(model=f"{folder / 'factory.py'}:build"))


def refusal(folder: Path, name: str = "ckpt") -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        opening(folder, name)
    assert caught.value.exit_status == 4
    assert caught.value.why
    assert caught.value.fix
    return caught.value


def test_a_data_file_that_is_cut_short_is_refused_before_it_is_read(copy):
    data = copy / DATA
    data.write_bytes(data.read_bytes()[:200])
    error = refusal(copy)
    assert error.slug == "damaged-checkpoint"
    assert "bytes of variables and stores 200" in error.message


def test_a_huge_variable_that_is_a_hole_in_the_file_is_refused(copy):
    big = tf.Variable(tf.zeros(70 << 18))  # 70 MiB of float32
    tf.train.Checkpoint(model=big).write(str(copy / "ckpt"))
    data = copy / DATA
    size = data.stat().st_size
    data.write_bytes(b"")
    os.truncate(data, size)
    assert data.stat().st_blocks * 512 < 1 << 20
    error = refusal(copy)
    assert "declares 73,4" in error.message
    assert "made up" in error.why


def test_a_variable_of_another_size_is_told_and_not_taken(copy):
    model = tf.train.Checkpoint(kernel=tf.Variable(tf.zeros((999, 3))))
    tf.train.Checkpoint(model=model).write(str(copy / "ckpt"))
    with pytest.raises(CheckpointError) as caught:
        opening(copy)
    assert caught.value.slug == "model-mismatch"
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("text", ["", "model_checkpoint_path", "\x00" * 64, 'model: "' + "a" * 999])
def test_a_state_file_that_says_nothing_is_passed_over(copy, text):
    (copy / "checkpoint").write_text(text)
    assert opening(copy, ".").source["file"] == str(copy / "ckpt")


def test_a_state_file_cannot_lead_outside_of_its_folder(copy, tmp_path):
    shutil.copy(copy / INDEX, tmp_path / "secret.index")
    (copy / "checkpoint").write_text('model_checkpoint_path: "../secret"\n')
    assert opening(copy, ".").source["file"] == str(copy / "ckpt")


def bent(whole: bytes, rng: random.Random) -> bytes:
    """Cut the bytes short, or overwrite a few of them."""
    if rng.random() < 0.3:
        return whole[: rng.randrange(len(whole))]
    changed = bytearray(whole)
    for _ in range(rng.choice((1, 3, 20))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


@pytest.mark.parametrize("name", [INDEX, DATA, "m.weights.h5"])
def test_no_damage_shows_a_traceback(copy, name):
    original = (copy / name).read_bytes()
    rng = random.Random(0)  # noqa: S311 - the same damage every time
    opened = 0
    for _ in range(25):
        (copy / name).write_bytes(bent(original, rng))
        try:
            opening(copy, "m.weights.h5" if name.endswith("h5") else "ckpt")
            opened += 1
        except (RefusedError, CheckpointError) as error:
            assert error.why  # noqa: PT017 - which of the two, if any, depends on the damage
    # TensorFlow keeps a check sum of everything; HDF5 files have room for bytes nobody reads.
    assert opened == 0 or name.endswith("h5")


def huge(file: Any) -> None:
    file.create_dataset("layers/dense/vars/9", shape=(1 << 37,), dtype="f8", chunks=(1 << 20,))


def linked(file: Any) -> None:
    file["layers/dense/vars/9"] = h5py.ExternalLink("/etc/hostname", "/")


def soft(file: Any) -> None:
    file["layers/dense/vars/9"] = h5py.SoftLink("/layers/dense/vars/0")


@pytest.mark.parametrize("change", [huge, linked, soft])
def test_weights_that_declare_a_terabyte_or_point_elsewhere_are_refused(
    copy, change: Callable[[Any], None]
):
    with h5py.File(copy / "m.weights.h5", "r+") as file:
        change(file)
    assert refusal(copy, "m.weights.h5").slug == "unsafe-weights"


def test_a_saved_model_has_its_variables_read_and_its_graph_left_alone(whole, tmp_path):
    model = opening(whole).model
    tf.saved_model.save(model, str(tmp_path / "sm"))
    # Were the graph looked at, this would not open.
    (tmp_path / "sm" / "saved_model.pb").write_bytes(b"\x00 no graph")
    shutil.copy(whole / "factory.py", tmp_path)
    opened = open_checkpoint(tmp_path / "sm", OpenOptions(model=f"{tmp_path / 'factory.py'}:build"))
    np.testing.assert_array_equal(
        opened.model.layers[0].kernel.numpy(), model.layers[0].kernel.numpy()
    )
    (tmp_path / "sm" / "variables" / "variables.index").write_bytes(b"none")
    with pytest.raises(RefusedError):
        open_checkpoint(tmp_path / "sm", OpenOptions(model=f"{tmp_path / 'factory.py'}:build"))
