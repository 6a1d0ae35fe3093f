"""Does bad input get a clear error, and is nothing lost or left behind?

What can be refused without TensorFlow is refused before it is imported: these tests give the replay
one second, in which a child that imports it would hit its limit and end with status 5.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from typing import Any

import numpy as np
import pytest

from divergence_doctor.errors import DoctorError
from divergence_doctor.examination import Request, examine
from tests.cli.conftest import SAMPLES

QUICK = ("--time-limit", 1)


@pytest.fixture
def checkpoint(tmp_path):
    return shutil.copy(SAMPLES / "log_of_zero" / "model.keras", tmp_path / "model.keras")


@pytest.fixture
def batch(tmp_path):
    return shutil.copy(SAMPLES / "log_of_zero" / "batch.npz", tmp_path / "batch.npz")


@pytest.fixture(autouse=True)
def nothing_left(elsewhere, tmp_path):
    """After every test: no output folder, no partial one, no working folder of a child."""
    yield
    kept = {path.name for path in elsewhere.iterdir()}
    assert kept <= {"file", "out"}
    assert list((tmp_path / "temporary").iterdir()) == []


# ---------------------------------------------------------------------- before TensorFlow


def test_a_checkpoint_that_is_not_there_is_named(doctor, tmp_path, batch):
    doctor("replay", tmp_path / "gone.keras", batch, *QUICK).assert_refused(
        2, "error[checkpoint-not-found]", "gone.keras", "no file, folder or checkpoint prefix"
    )


def test_a_batch_that_is_not_there_is_named(doctor, tmp_path, checkpoint):
    doctor("replay", checkpoint, tmp_path / "gone.npz", *QUICK).assert_refused(
        2, "error[batch-not-found]", "gone.npz", "give an .npz file"
    )


def test_a_missing_batch_is_asked_for(doctor, checkpoint):
    doctor("replay", checkpoint, *QUICK).assert_refused(2, "error[no-batch]", "np.savez(")


def test_a_plain_folder_is_no_checkpoint(doctor, tmp_path, batch):
    (tmp_path / "folder").mkdir()

    doctor("replay", tmp_path / "folder", batch, *QUICK).assert_refused(
        2, "error[not-a-checkpoint]", "folder is a plain folder"
    )


def test_a_step_that_a_folder_lacks_lists_those_there_are(doctor, tmp_path, batch):
    (tmp_path / "run").mkdir()
    for step in (8, 9, 10):
        (tmp_path / "run" / f"ckpt-{step}.index").write_bytes(b"")

    run = doctor("replay", tmp_path / "run", batch, "--model", "m:f", "--step", 7, *QUICK)
    run.assert_refused(2, "error[no-such-step]", "no checkpoint of step 7", "8, 9, 10")


def test_a_checkpoint_of_one_step_takes_no_step(doctor, checkpoint, batch):
    doctor("replay", checkpoint, batch, "--step", 7, *QUICK).assert_refused(
        2, "error[no-steps]", "model.keras is one checkpoint", "leave --step out"
    )


def test_a_folder_without_a_batch_is_no_batch(doctor, tmp_path, checkpoint):
    (tmp_path / "folder").mkdir()

    doctor("replay", checkpoint, tmp_path / "folder", *QUICK).assert_refused(
        2, "error[no-batch]", "folder holds no batch", "none of its files ends in .npz"
    )


@pytest.mark.parametrize("part", [0.2, 0.9, 0.999])
def test_a_truncated_checkpoint_is_refused(doctor, tmp_path, checkpoint, batch, part):
    whole = (tmp_path / "model.keras").read_bytes()
    (tmp_path / "model.keras").write_bytes(whole[: int(len(whole) * part)])

    doctor("replay", checkpoint, batch, *QUICK).assert_refused(
        4, "error[damaged-checkpoint]", "model.keras is damaged", "use an earlier checkpoint"
    )


@pytest.mark.parametrize("part", [0.2, 0.9, 0.999])
def test_a_truncated_batch_is_refused(doctor, tmp_path, checkpoint, batch, part):
    whole = (tmp_path / "batch.npz").read_bytes()
    (tmp_path / "batch.npz").write_bytes(whole[: int(len(whole) * part)])

    doctor("replay", checkpoint, batch, *QUICK).assert_refused(
        4, "error[damaged-batch]", "batch.npz is damaged", "copy or save the file again"
    )


def test_a_flipped_bit_in_the_weights_is_refused(doctor, tmp_path, checkpoint, batch):
    with zipfile.ZipFile(checkpoint) as archive:
        start = archive.getinfo("model.weights.h5").header_offset
    content = bytearray((tmp_path / "model.keras").read_bytes())
    content[start + 5_000] ^= 0x10
    (tmp_path / "model.keras").write_bytes(content)

    doctor("replay", checkpoint, batch, *QUICK).assert_refused(
        4, "error[damaged-checkpoint]", "Bad CRC-32"
    )


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x04K\x01."], ids=repr)
def test_a_checkpoint_that_is_no_archive_is_not_understood(
    doctor, tmp_path, checkpoint, batch, content
):
    (tmp_path / "model.keras").write_bytes(content)

    said = doctor("replay", checkpoint, batch, *QUICK)

    said.assert_refused(2, "error[not-a-checkpoint]", "model.keras", "a .keras archive is a zip")


@pytest.mark.parametrize("content", [b"", b"hello"], ids=repr)
def test_a_batch_that_is_no_archive_is_not_understood(doctor, tmp_path, checkpoint, batch, content):
    (tmp_path / "batch.npz").write_bytes(content)

    doctor("replay", checkpoint, batch, *QUICK).assert_refused(
        2, "error[not-a-batch]", "batch.npz is not a batch", "np.savez("
    )


def test_a_pickle_in_the_batch_is_refused_unopened(doctor, tmp_path, checkpoint):
    class Trap:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "sprung"), "w"))

    meta = np.array([Trap()], dtype=object)
    np.savez(tmp_path / "batch.npz", x=np.ones(3), meta=meta)

    doctor("replay", checkpoint, tmp_path / "batch.npz", *QUICK).assert_refused(
        4, "batch.npz holds pickled objects", "array 'meta' has dtype object", "np.savez("
    )
    assert not (tmp_path / "sprung").exists()


def test_a_savedmodel_is_refused_with_the_reason(doctor, tmp_path, batch):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01")

    doctor("replay", tmp_path / "saved", batch, *QUICK).assert_refused(
        4, "error[saved-model]", "its graph may read and write", "model.save('model.keras')"
    )


def test_a_lambda_layer_is_refused_unless_trusted(doctor, tmp_path, checkpoint, batch):
    config = {
        "class_name": "Sequential",
        "module": "keras",
        "config": {
            "layers": [
                {
                    "class_name": "Lambda",
                    "module": "keras.layers",
                    "config": {"name": "trick", "function": {"class_name": "__lambda__"}},
                }
            ]
        },
    }
    with zipfile.ZipFile(checkpoint) as whole:
        weights = whole.read("model.weights.h5")
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights)

    doctor("replay", checkpoint, batch, *QUICK).assert_refused(4, "trick", "--trust")


# ---------------------------------------------------------------------- the output folder


def test_an_output_that_exists_is_kept(doctor, checkpoint, batch, elsewhere):
    (elsewhere / "out").mkdir()
    (elsewhere / "out" / "report.json").write_text("former")

    doctor("replay", checkpoint, batch, "--out", "out", *QUICK).assert_refused(
        2, "error[output-exists]", "out exists already", "--force"
    )
    assert (elsewhere / "out" / "report.json").read_text() == "former"


def test_the_default_output_is_kept_too(doctor, checkpoint, batch, elsewhere):
    (elsewhere / "model-diagnosis").mkdir()

    doctor("replay", checkpoint, batch, *QUICK).assert_refused(2, "model-diagnosis exists already")
    (elsewhere / "model-diagnosis").rmdir()


def test_an_output_below_a_file_cannot_be_written(doctor, checkpoint, batch, elsewhere):
    (elsewhere / "file").write_text("mine")

    doctor("replay", checkpoint, batch, "--out", "file/out", *QUICK).assert_refused(
        2, "error[cannot-write]", "file/out cannot be written", "why: not a directory", "--out"
    )
    assert (elsewhere / "file").read_text() == "mine"


def test_a_system_folder_that_takes_nothing_cannot_be_written(doctor, checkpoint, batch):
    doctor("replay", checkpoint, batch, "--out", "/proc/out", *QUICK).assert_refused(
        2, "error[cannot-write]", "/proc/out cannot be written", "--out"
    )


@pytest.mark.parametrize(
    "flags",
    [
        ("--steps", "0"),
        ("--steps", "many"),
        ("--budget", "-1"),
        ("--seed", "-1"),
        ("--time-limit", "0"),
        ("--nonsense",),
    ],
    ids=" ".join,
)
def test_a_flag_that_makes_no_sense_is_a_usage_error(doctor, checkpoint, batch, flags):
    said = doctor("replay", checkpoint, batch, *flags)

    assert said.status == 2
    assert flags[0] in said.err
    assert "Traceback" not in said.err


# ---------------------------------------------------------------------- with the model


CODE = """
import keras

@keras.saving.register_keras_serializable("shop")
class Scale(keras.layers.Layer):
    def call(self, x):
        return 2.0 * x

def cautious_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A compiled model, one that was never compiled, and one with a layer and a loss of its own."""
    import keras

    folder = tmp_path_factory.mktemp("models")

    def model(*layers: Any) -> Any:
        return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1, name="head")])

    compiled = model()
    compiled.compile("sgd", "mse")
    compiled.save(folder / "compiled.keras")
    model().save(folder / "uncompiled.keras")
    code: dict[str, Any] = {"__name__": "shop_code"}
    registered = dict(keras.saving.get_custom_objects())
    exec(CODE, code)  # noqa: S102 - our own code, as the user's module would run it
    own = model(code["Scale"]())
    own.compile("sgd", code["cautious_loss"])
    own.save(folder / "custom.keras")
    keras.saving.get_custom_objects().clear()
    keras.saving.get_custom_objects().update(registered)
    return folder


def good() -> dict[str, Any]:
    return {"x": np.ones((3, 4), "float32"), "y": np.zeros((3, 1), "float32")}


@pytest.fixture
def refused(models, batch_file, tmp_path):
    """Examine a model with a batch, and return the error."""

    def run(model: str, arrays: dict[str, Any], **request: Any) -> DoctorError:
        asked = Request(str(models / model), (str(batch_file(**arrays)),), steps=1, **request)
        folder = tmp_path / "result"
        folder.mkdir()
        with pytest.raises(DoctorError) as caught:
            examine(asked, folder)
        assert list(folder.iterdir()) == []
        error = caught.value
        assert error.message
        assert error.why
        assert error.fix
        return error

    return run


def test_a_wrong_shape_is_told_with_what_was_expected(refused):
    error = refused("compiled.keras", {**good(), "x": np.ones((3, 5), "float32")})

    assert error.exit_status == 2
    assert error.message == "batch.npz: array 'x' has shape (3, 5)"
    assert "(None, 4)" in error.why


def test_a_wrong_number_of_axes_is_told(refused):
    error = refused("compiled.keras", {**good(), "x": np.ones((3, 2, 2), "float32")})

    assert error.exit_status == 2
    assert "'x'" in error.message


def test_text_where_numbers_belong_is_told(refused):
    error = refused("compiled.keras", {**good(), "x": np.full((3, 4), "a")})

    assert error.exit_status == 2
    assert "'x'" in error.message
    assert "numbers were expected" in error.why


def test_missing_labels_are_asked_for(refused):
    error = refused("compiled.keras", {"x": good()["x"]})

    assert error.exit_status == 2
    assert "y" in error.message
    assert "y=" in error.fix


def test_an_array_that_the_model_has_no_place_for_is_named(refused):
    error = refused("compiled.keras", {**good(), "mask": np.ones(3)})

    assert error.exit_status == 2
    assert "'mask'" in error.message


def test_arrays_of_different_lengths_are_told(refused):
    error = refused("compiled.keras", {**good(), "y": np.zeros((2, 1), "float32")})

    assert error.exit_status == 2
    assert "3" in str(error)
    assert "2" in str(error)


def test_a_model_that_was_not_compiled_gets_the_flags_that_mend_it(refused):
    error = refused("uncompiled.keras", good())

    assert error.exit_status == 2
    assert "has no loss and no optimizer" in error.message
    assert "--loss NAME --optimizer NAME" in error.fix


def test_all_unknown_custom_objects_are_named_at_once_with_the_flag(refused):
    error = refused("custom.keras", good())

    assert error.exit_status == 2
    assert "2 custom objects" in error.message
    assert "Scale" in error.message
    assert "cautious_loss" in error.message
    assert "--custom-objects" in error.fix


def test_code_that_does_not_define_them_is_named(refused, tmp_path):
    (tmp_path / "other.py").write_text("def unrelated():\n    return 1\n")

    error = refused("custom.keras", good(), custom_objects=(str(tmp_path / "other.py"),))

    assert "other.py" in str(error)
    assert "Scale" in error.message


def test_code_that_cannot_be_imported_is_told_with_its_line(refused, tmp_path):
    (tmp_path / "broken.py").write_text("import keras\n\n1 / 0\n")

    error = refused("custom.keras", good(), custom_objects=(str(tmp_path / "broken.py"),))

    assert error.exit_status == 2
    assert "broken.py" in str(error)
    assert "ZeroDivisionError" in str(error)


def test_an_unknown_loss_is_told(refused):
    error = refused("uncompiled.keras", good(), loss="meen_squared", optimizer="sgd")

    assert error.exit_status == 2
    assert "'meen_squared'" in error.message


@pytest.mark.slow
def test_the_childs_errors_reach_the_user_as_they_are(shell, models, batch_file):
    path = batch_file(**good())

    shell("replay", models / "custom.keras", path).assert_refused(
        2, "error[unknown-custom-objects]", "Scale", "cautious_loss", "--custom-objects"
    )


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_told_through_the_child(shell, models, batch_file):
    path = batch_file(**{**good(), "x": np.ones((3, 5), "float32")})

    shell("replay", models / "compiled.keras", path).assert_refused(2, "'x'", "batch.npz")
