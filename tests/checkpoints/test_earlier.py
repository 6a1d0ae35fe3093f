"""Is the last sound checkpoint found, and is nothing but arrays read on the way to it?"""

import os
import zipfile

import numpy as np
import pytest

from divergence_doctor.checkpoints import Fault, last_good

NOTHING = Fault()


@pytest.fixture
def save(keras, tmp_path):
    """Return a function that saves a model, with a NaN in it or not, under a name."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)

    def make(name, *, value=1.0, units=2, age=None):
        written = model
        if units != 2:
            written = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units)])
            written.compile("adam", "mse")
        kernel = np.ones((3, units), "float32")
        kernel[1, 1] = value
        written.layers[0].kernel.assign(kernel)
        path = tmp_path / name
        (written.save_weights if name.endswith("weights.h5") else written.save)(path)
        if age is not None:
            os.utime(path, (age, age))
        return path

    return make


@pytest.mark.parametrize(
    ("good", "suffix"),
    [*((good, ".weights.h5") for good in range(8)), *((good, ".keras") for good in (0, 3, 7))],
)
def test_the_last_sound_one_is_found_wherever_it_lies(save, good, suffix):
    for number in range(1, 9):
        path = save(f"step-{number * 5}{suffix}", value=1.0 if number <= good else np.nan)
    found = last_good(path, NOTHING)
    assert found["of"] == 7
    assert found["file"] == (f"step-{good * 5}{suffix}" if good else "")
    assert found["next"] == f"step-{good * 5 + 5}{suffix}"
    assert found["oldest"] == f"step-5{suffix}"
    assert found["read"] <= 4


def test_numbers_count_as_numbers_and_what_came_later_does_not_count(save):
    save("step-9.keras")
    save("step-10.keras", value=np.nan)
    path = save("step-11.keras", value=np.nan)
    save("step-100.keras")
    found = last_good(path, NOTHING)
    assert (found["file"], found["next"], found["of"]) == ("step-9.keras", "step-10.keras", 2)


def test_names_without_numbers_go_by_their_age(save):
    save("best.keras", age=1_000)
    save("broken.keras", value=np.inf, age=2_000)
    path = save("last.keras", value=np.nan, age=3_000)
    save("newer.keras", age=4_000)
    assert last_good(path, NOTHING)["file"] == "best.keras"


def test_another_model_and_what_cannot_be_read_are_passed_over(save, tmp_path):
    save("step-1.keras")
    save("step-2.keras", units=5)
    (tmp_path / "step-3.keras").write_bytes(b"PK not a zip archive")
    (tmp_path / "step-4.keras").symlink_to(tmp_path / "step-1.keras")
    with zipfile.ZipFile(tmp_path / "step-5.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"")
    path = save("step-6.keras", value=np.nan)
    found = last_good(path, NOTHING)
    assert (found["file"], found["read"]) == ("step-1.keras", 1)


def test_alone_in_its_folder_there_is_nothing_to_find(save):
    assert last_good(save("step-1.keras", value=np.nan), NOTHING) is None


def test_a_weight_of_1e9_is_none_that_is_gone_back_to(save):
    save("step-1.keras")
    save("step-2.keras", value=1e9)
    path = save("step-3.keras", value=1e20)
    assert last_good(path, Fault(largest=1e6))["file"] == "step-1.keras"
    assert last_good(path, NOTHING)["file"] == "step-2.keras"


def test_what_may_not_be_negative_is_known_by_its_shape_and_count(save):
    save("step-1.keras")
    save("step-2.keras", value=-0.1)
    path = save("step-3.keras", value=-0.5)
    assert last_good(path, Fault(negative=(((3, 2), 1),)))["file"] == "step-1.keras"


def test_the_folder_of_a_checkpoint_manager_is_searched(keras, tmp_path):
    import tensorflow as tf

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(model=model), tmp_path, 9)
    for value in (1.0, 2.0, np.nan, np.nan):
        model.layers[0].kernel.assign(np.full((3, 2), value))
        path = manager.save()
    found = last_good(type(tmp_path)(path), NOTHING)
    assert (found["file"], found["next"], found["of"]) == ("ckpt-2", "ckpt-3", 3)
