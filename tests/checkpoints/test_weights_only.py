"""Weights without a model: ``.weights.h5`` and ``tf.train.Checkpoint``, with a factory."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from divergence_doctor.checkpoints import OpenOptions, choose, open_checkpoint
from divergence_doctor.errors import CheckpointError, DoctorError, RefusedError

if TYPE_CHECKING:
    from pathlib import Path

FACTORY = """
import keras

def build():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    )
    model.compile("adam", "mse")
    return model

def wider():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(7), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model

def unbuilt():
    model = keras.Sequential([keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model

def uncompiled():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    )

def nothing():
    pass

def broken():
    raise RuntimeError("no data here")
"""


def stepped() -> Any:
    space: dict[str, Any] = {}
    exec(FACTORY, space)  # noqa: S102 - the user's own script, as it ran
    model = space["build"]()
    batch = (keras.ops.ones((4, 4)), keras.ops.zeros((4, 1)))
    for _ in range(2):
        model.train_step(batch)
    return model


@pytest.fixture(scope="module")
def trained():
    return stepped()


@pytest.fixture
def factory(tmp_path):
    (tmp_path / "factory.py").write_text(FACTORY, encoding="utf-8")
    return str(tmp_path / "factory.py")


def load(path: Path, model: str | None, **options: Any) -> Any:
    return open_checkpoint(path, OpenOptions(model=model, **options))


def refusal(kind: type[DoctorError], path: Path, model: str | None) -> DoctorError:
    with pytest.raises(kind) as caught:
        load(path, model)
    assert type(caught.value) is kind
    assert not re.search(r"[\x00-\x1f]", caught.value.message + caught.value.why + caught.value.fix)
    return caught.value


def same(opened: Any, trained: Any, *, optimizer: bool = True, seeds: str = "missing") -> None:
    pairs = list(zip(opened.model.weights, trained.weights, strict=True))
    if optimizer:
        pairs += zip(opened.model.optimizer.variables, trained.optimizer.variables, strict=True)
    for mine, theirs in pairs:
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    assert opened.fidelity["optimizer_state"] == ("restored" if optimizer else "missing")
    assert opened.fidelity["random_state"] == seeds


def test_weights_need_a_model(trained, tmp_path):
    trained.save_weights(tmp_path / "m.weights.h5")
    error = refusal(CheckpointError, tmp_path / "m.weights.h5", None)
    assert error.slug == "model-needed"
    assert "--model MODULE_OR_FILE:FUNCTION" in error.fix
    tf.train.Checkpoint(model=trained).write(str(tmp_path / "ckpt"))
    assert refusal(CheckpointError, tmp_path / "ckpt", None).slug == "model-needed"


def test_weights_in_hdf5_fill_the_factorys_model(trained, tmp_path, factory):
    trained.save_weights(tmp_path / "m.weights.h5")
    opened = load(tmp_path / "m.weights.h5", f"{factory}:build")
    same(opened, trained)
    assert opened.source["format"] == "weights in HDF5"
    (tmp_path / "m.weights.h5").rename(tmp_path / "weights of monday")
    same(load(tmp_path / "weights of monday", f"{factory}:build"), trained)


def test_an_archive_fills_the_factorys_model_where_one_is_given(trained, tmp_path, factory):
    trained.save(tmp_path / "m.keras")
    same(load(tmp_path / "m.keras", f"{factory}:build"), trained)


def test_a_legacy_file_fills_the_factorys_model_where_one_is_given(tmp_path, factory):
    # A model of its own: saving it as .h5 takes the optimizer out of its compile config.
    trained = stepped()
    trained.save(tmp_path / "m.h5")
    same(load(tmp_path / "m.h5", f"{factory}:build"), trained)


def test_weights_of_another_model_are_told(trained, tmp_path, factory):
    trained.save_weights(tmp_path / "m.weights.h5")
    error = refusal(CheckpointError, tmp_path / "m.weights.h5", f"{factory}:wider")
    assert error.slug == "cannot-load"
    assert "1 objects could not be loaded" in error.message or "objects" in error.message


@pytest.mark.parametrize(
    ("function", "slug"),
    [
        ("unbuilt", "model-not-built"),
        ("uncompiled", "not-compiled"),
        ("nothing", "model-factory-failed"),
        ("broken", "model-factory-failed"),
        ("missing", "bad-model-option"),
    ],
)
def test_a_factory_that_does_not_do_is_told(trained, tmp_path, factory, function, slug):
    trained.save_weights(tmp_path / "m.weights.h5")
    assert refusal(CheckpointError, tmp_path / "m.weights.h5", f"{factory}:{function}").slug == slug
    tf.train.Checkpoint(model=trained).write(str(tmp_path / "ckpt"))
    assert refusal(CheckpointError, tmp_path / "ckpt", f"{factory}:{function}").slug == slug


def test_a_truncated_weights_file_is_refused(trained, tmp_path, factory):
    trained.save_weights(tmp_path / "m.weights.h5")
    whole = (tmp_path / "m.weights.h5").read_bytes()
    (tmp_path / "m.weights.h5").write_bytes(whole[: len(whole) // 2])
    error = refusal(RefusedError, tmp_path / "m.weights.h5", f"{factory}:build")
    assert error.slug == "damaged-checkpoint"


@pytest.mark.parametrize(
    "objects",
    [
        lambda model: {"model": model},
        lambda model: {"model": model, "optimizer": model.optimizer, "step": tf.Variable(7)},
        lambda model: {"net": model, "opt": model.optimizer},
        lambda model: {"generator": model},
        lambda model: {"root": model},
    ],
    ids=["model", "model-and-optimizer", "net", "another-name", "root"],
)
def test_the_model_is_found_wherever_it_hangs(trained, tmp_path, factory, objects):
    tf.train.Checkpoint(**objects(trained)).save(str(tmp_path / "run" / "ckpt"))
    for path in ("run/ckpt-1", "run", "run/ckpt-1.index", "run/ckpt-1.data-00000-of-00001"):
        assert choose(tmp_path / path, OpenOptions(model="m:f")).name == "tf.train.Checkpoint"
    same(load(tmp_path / "run", f"{factory}:build"), trained)


def test_the_latest_of_a_folder_is_taken_and_none_outside_of_it(trained, tmp_path, factory):
    checkpoint = tf.train.Checkpoint(model=trained)
    manager = tf.train.CheckpointManager(checkpoint, str(tmp_path / "run"), max_to_keep=3)
    for _ in range(2):
        manager.save()
    opened = load(tmp_path / "run", f"{factory}:build")
    assert opened.source["file"] == str(tmp_path / "run" / "ckpt-2")
    state = tmp_path / "run" / "checkpoint"
    state.write_text('model_checkpoint_path: "../../elsewhere/ckpt-1"\n')
    opened = load(tmp_path / "run", f"{factory}:build")
    assert opened.source["file"] == str(tmp_path / "run" / "ckpt-1")


def test_an_optimizer_that_is_not_in_the_file_starts_fresh(trained, tmp_path, factory):
    bare = keras.Sequential.from_config(trained.get_config())
    bare.set_weights(trained.get_weights())
    tf.train.Checkpoint(model=bare).write(str(tmp_path / "ckpt"))
    opened = load(tmp_path / "ckpt", f"{factory}:build")
    same(opened, trained, optimizer=False)
    assert float(opened.model.optimizer.learning_rate) == pytest.approx(1e-3)
    assert all(
        not variable.numpy().any()
        for variable in opened.model.optimizer.variables
        if variable.path.endswith(("momentum", "velocity"))
    )


def test_a_checkpoint_of_another_model_is_told(trained, tmp_path, factory):
    tf.train.Checkpoint(model=trained).write(str(tmp_path / "ckpt"))
    error = refusal(CheckpointError, tmp_path / "ckpt", f"{factory}:wider")
    assert error.slug == "model-mismatch"
    tf.train.Checkpoint(step=tf.Variable(1)).write(str(tmp_path / "other"))
    error = refusal(CheckpointError, tmp_path / "other", f"{factory}:build")
    assert error.slug == "model-mismatch"
    assert "4 of its weights" in error.message
    assert error.why == "it holds step"


def test_a_damaged_checkpoint_is_refused(trained, tmp_path, factory):
    tf.train.Checkpoint(model=trained).write(str(tmp_path / "ckpt"))
    data = tmp_path / "ckpt.data-00000-of-00001"
    whole = bytearray(data.read_bytes())
    whole[len(whole) // 3] ^= 255
    data.write_bytes(whole)
    assert refusal(RefusedError, tmp_path / "ckpt", f"{factory}:build").slug == "damaged-checkpoint"
    (tmp_path / "ckpt.index").write_bytes((tmp_path / "ckpt.index").read_bytes()[:100])
    assert refusal(RefusedError, tmp_path / "ckpt", f"{factory}:build").slug == "damaged-checkpoint"
    data.unlink()
    assert "index and no data" in refusal(RefusedError, tmp_path / "ckpt", "m:f").message


def test_a_saved_model_is_refused_with_its_reason_unless_a_model_is_given(
    trained, tmp_path, factory
):
    tf.saved_model.save(trained, str(tmp_path / "sm"))
    error = refusal(RefusedError, tmp_path / "sm", None)
    assert error.slug == "saved-model"
    assert "neither layers nor a training step" in error.why
    same(load(tmp_path / "sm", f"{factory}:build"), trained)


def test_an_exported_saved_model_holds_weights_and_no_optimizer(trained, tmp_path, factory):
    trained.export(str(tmp_path / "sm"), verbose=False)
    opened = load(tmp_path / "sm", f"{factory}:build")
    same(opened, trained, optimizer=False, seeds="restored")
    mine, theirs = (m.layers[1].seed_generator.state for m in (opened.model, trained))
    np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    assert opened.unseeded == ()
