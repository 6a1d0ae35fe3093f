"""Which checkpoint of a folder is opened: the latest, or the one of ``--step``?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import keras
import numpy as np
import pytest
import tensorflow as tf

from divergence_doctor.checkpoints import OpenOptions, choose, open_checkpoint
from divergence_doctor.checkpoints._steps import choose_step
from divergence_doctor.errors import CheckpointError, DoctorError

if TYPE_CHECKING:
    from pathlib import Path

FACTORY = """
import keras

def build():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model
"""


def indexes(folder: Path, *names: str) -> Path:
    """Make the index files of some checkpoints, each younger than the one before."""
    folder.mkdir(exist_ok=True)
    for age, name in enumerate(names):
        index = folder / f"{name}.index"
        index.write_bytes(b"")
        os.utime(index, (1_000 + age, 1_000 + age))
    return folder


def refused(path: Path, step: int) -> DoctorError:
    with pytest.raises(CheckpointError) as caught:
        choose_step(path, step)
    assert caught.value.slug == "no-such-step"
    return caught.value


@pytest.fixture
def managed(tmp_path):
    """Return the folder of a CheckpointManager whose three checkpoints differ in the bias."""
    (tmp_path / "factory.py").write_text(FACTORY, encoding="utf-8")
    space: dict[str, object] = {}
    exec(FACTORY, space)  # noqa: S102 - the user's own script, as it ran
    model = space["build"]()  # type: ignore[operator]
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    manager = tf.train.CheckpointManager(checkpoint, str(tmp_path / "run"), max_to_keep=3)
    for step in (100, 200, 1000, 1100):
        model.layers[0].bias.assign([float(step)])
        model.optimizer.iterations.assign(step)
        manager.save(checkpoint_number=step)
    return tmp_path / "run"


def bias(path: Path, step: int | None = None) -> tuple[float, list[str]]:
    factory = f"{path.parent / 'factory.py'}:build"
    opened = open_checkpoint(path, OpenOptions(model=factory, step=step))
    return float(np.asarray(opened.model.layers[0].bias)[0]), opened.fidelity["notes"]


def test_the_latest_is_opened_and_the_others_are_told(managed):
    assert bias(managed) == (
        1100.0,
        [
            (
                "ckpt-1100 was opened, the latest of the 3 checkpoints in the folder (steps 200,"
                " 1000, 1100); --step opens another."
            )
        ],
    )


def test_another_step_is_opened_where_it_is_asked_for(managed):
    assert bias(managed, 200) == (200.0, [])
    assert choose_step(managed / "ckpt-1000", 1000).prefix == managed / "ckpt-1000"


def test_the_prefix_given_to_save_means_its_latest(managed):
    factory = f"{managed.parent / 'factory.py'}:build"
    opened = open_checkpoint(managed / "ckpt", OpenOptions(model=factory))
    assert opened.source["file"] == str(managed / "ckpt-1100")
    assert choose_step(managed / "ckpt", 200).prefix == managed / "ckpt-200"
    assert choose_step(managed / "ckpt", None).prefix == managed / "ckpt-1100"


def test_a_step_that_is_not_there_lists_those_that_are(managed):
    error = refused(managed, 100)
    assert error.message.endswith("run holds no checkpoint of step 100")
    assert error.why == "the steps there are: 200, 1000, 1100"
    assert "--step" in error.fix


def test_many_steps_are_listed_from_both_ends(tmp_path):
    folder = indexes(tmp_path / "run", *(f"ckpt-{step}" for step in range(1, 41)))
    assert refused(folder, 99).why == (
        "the steps there are: 1, 2, 3, 4, 5, 6, … 35, 36, 37, 38, 39, 40 (40 in all)"
    )


def test_names_without_a_number_have_no_step(tmp_path):
    folder = indexes(tmp_path / "run", "best", "last")
    assert choose_step(folder, None).prefix == folder / "last"
    assert "none whose name ends in a number" in refused(folder, 3).why


def test_two_checkpoints_of_one_step_are_told_apart_by_name(tmp_path):
    folder = indexes(tmp_path / "run", "best-7", "ckpt-7", "ckpt-8")
    error = refused(folder, 7)
    assert "2 checkpoints of step 7: best-7, ckpt-7" in error.message
    assert error.fix.endswith("best-7")
    assert choose_step(folder, 8).prefix == folder / "ckpt-8"


def test_a_prefix_of_another_step_is_told(tmp_path):
    folder = indexes(tmp_path / "run", "ckpt-7")
    assert "not that of step 8" in refused(folder / "ckpt-7", 8).message
    assert "not that of step 8" in refused(folder / "ckpt-7.index", 8).message


def test_a_state_file_that_names_what_is_gone_is_told(tmp_path):
    folder = indexes(tmp_path / "run", "ckpt-1", "ckpt-2")
    (folder / "checkpoint").write_text('model_checkpoint_path: "ckpt-3"\n')
    choice = choose_step(folder, None)
    assert choice.prefix == folder / "ckpt-2"
    assert "names ckpt-3 as the latest, which is not there" in choice.note


def test_the_state_file_goes_before_the_age(tmp_path):
    folder = indexes(tmp_path / "run", "ckpt-1", "ckpt-2")
    (folder / "checkpoint").write_text('model_checkpoint_path: "/far/away/ckpt-1"\n')
    assert choose_step(folder, None).prefix == folder / "ckpt-1"


def test_an_empty_folder_holds_no_checkpoint(tmp_path):
    assert choose_step(tmp_path, None).prefix is None
    assert choose_step(tmp_path, 3).prefix is None
    assert choose_step(tmp_path / "ckpt", None).prefix is None


def test_a_file_has_no_steps_to_choose_from(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.save(tmp_path / "m.keras")
    with pytest.raises(CheckpointError) as caught:
        choose(tmp_path / "m.keras", OpenOptions(step=3))
    assert caught.value.slug == "no-steps"
    assert ".keras archive" in caught.value.message
