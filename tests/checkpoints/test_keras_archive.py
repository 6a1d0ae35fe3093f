from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import pytest

from divergence_doctor.checkpoints import OpenOptions, choose, open_checkpoint
from divergence_doctor.errors import CheckpointError, DoctorError, NotFoundError, RefusedError

if TYPE_CHECKING:
    from pathlib import Path

CODE = """
import keras

@keras.saving.register_keras_serializable("pk")
class Scale(keras.layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), name="factor", initializer="ones")
        super().build(shape)

    def call(self, x):
        return x * self.factor

class Plain(keras.layers.Layer):
    def call(self, x):
        return x + 1.0

def my_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.abs(y_true - y_pred))

def my_metric(y_true, y_pred):
    return keras.ops.mean(y_pred)
"""


def fitted(model: Any) -> Any:
    """Two steps of training, without the seconds that tracing a graph takes."""
    batch = (keras.ops.ones((4, 4)), keras.ops.zeros((4, 1)))
    for _ in range(2):
        model.train_step(batch)
    return model


def dense(*layers: Any) -> Any:
    return keras.Sequential(
        [keras.Input((4,)), *layers, keras.layers.Dense(1, name="head")], name="net"
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One trained model with dropout, and the archive it was saved to."""
    model = dense(keras.layers.Dense(3, activation="relu"), keras.layers.Dropout(0.5))
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    path = tmp_path_factory.mktemp("trained") / "model.keras"
    fitted(model).save(path)
    return model, path


@pytest.fixture
def code(tmp_path):
    path = tmp_path / "my_objects.py"
    path.write_text(CODE, encoding="utf-8")
    return path


def load(path: Path, **options: Any) -> Any:
    return open_checkpoint(path, OpenOptions(**options))


def refusal(path: Path, kind: type[DoctorError], **options: Any) -> DoctorError:
    with pytest.raises(kind) as caught:
        load(path, **options)
    error = caught.value
    assert type(error) is kind
    assert error.why
    assert error.fix
    assert not re.search(r"[\x00-\x1f\x7f]", error.message + error.why + error.fix)
    return error


def rewritten(source: Path, target: Path, **members: Any) -> Path:
    """Copy an archive with some members replaced, added, or (None) left out."""
    named = {name.replace("__", "."): value for name, value in members.items()}
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            if info.filename not in named:
                new.writestr(info, old.read(info))
        for name, value in named.items():
            if value is not None:
                new.writestr(name, value if isinstance(value, bytes | str) else json.dumps(value))
    return target


def config_of(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def test_weights_optimizer_and_loss_come_back(trained):
    model, path = trained
    opened = load(path)
    for mine, theirs in zip(opened.model.weights, model.weights, strict=True):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    for mine, theirs in zip(
        opened.model.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    assert int(opened.model.optimizer.iterations.numpy()) == 2
    assert opened.model.loss == "mse"
    assert opened.fidelity["optimizer_state"] == "restored"
    assert opened.fidelity["random_state"] == "missing"
    assert "1 random generator (Dropout dropout" in opened.fidelity["notes"][0]
    assert opened.source["format"] == ".keras archive"
    assert opened.source["keras_version"] == keras.__version__
    assert opened.source["dtype_policy"] == "float32"
    assert len(opened.source["sha256"]) == 64


def test_a_model_without_random_layers_lacks_no_random_state(tmp_path):
    model = dense()
    model.compile("sgd", "mse")
    fitted(model).save(tmp_path / "m.keras")
    opened = load(tmp_path / "m.keras")
    assert opened.fidelity == {
        "optimizer_state": "restored",
        "random_state": "restored",
        "notes": [],
    }


def test_the_content_counts_and_not_the_suffix(trained, tmp_path):
    _, path = trained
    renamed = tmp_path / "best model"
    renamed.write_bytes(path.read_bytes())
    assert choose(renamed, OpenOptions()).name == ".keras archive"
    assert load(renamed).fidelity["optimizer_state"] == "restored"


# --- custom objects -------------------------------------------------------------------------------


@pytest.fixture
def custom(code, tmp_path):
    """Return an archive that names a registered layer, a plain one, a loss and a metric."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(CODE, str(code), "exec"), space)  # noqa: S102 - the user's own script, as it ran
    model = dense(space["Scale"](), space["Plain"]())
    model.compile("adam", space["my_loss"], metrics=[space["my_metric"]])
    path = tmp_path / "custom.keras"
    fitted(model).save(path)
    keras.saving.get_custom_objects().clear()
    return path


def test_unknown_custom_objects_are_named_all_at_once(custom):
    error = refusal(custom, CheckpointError)
    assert error.slug == "unknown-custom-objects"
    for name in ("'pk>Scale'", "'Plain'", "'my_loss'"):
        assert name in error.message
    assert "3 custom objects" in error.message
    assert "--custom-objects FILE_OR_MODULE" in error.fix


def test_a_file_of_custom_objects_resolves_registered_and_plain_ones(custom, code):
    opened = load(custom, custom_objects=(str(code),))
    assert [type(layer).__name__ for layer in opened.model.layers] == ["Scale", "Plain", "Dense"]
    assert opened.model.loss.__name__ == "my_loss"
    assert opened.fidelity["optimizer_state"] == "restored"
    assert opened.fidelity["notes"] == []


def test_a_module_found_from_the_working_folder_resolves_them_too(custom, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(custom, custom_objects=("my_objects",)).fidelity["optimizer_state"] == "restored"


def test_a_custom_metric_is_left_out_and_the_optimizer_kept(custom, code):
    code.write_text(CODE.replace("def my_metric", "def another"), encoding="utf-8")
    opened = load(custom, custom_objects=(str(code),))
    assert int(opened.model.optimizer.iterations.numpy()) == 2
    assert opened.fidelity["optimizer_state"] == "restored"
    assert opened.fidelity["notes"] == ["Left out, because nothing defines it: my_metric."]


def test_a_given_loss_replaces_one_that_nothing_defines(custom, code):
    code.write_text(CODE.replace("def my_loss", "def another"), encoding="utf-8")
    assert "'my_loss'" in refusal(custom, CheckpointError, custom_objects=(str(code),)).message
    opened = load(custom, custom_objects=(str(code),), loss="mae")
    assert int(opened.model.optimizer.iterations.numpy()) == 2
    assert opened.fidelity["optimizer_state"] == "restored"


def test_the_module_that_the_config_names_is_what_to_pass(trained, tmp_path):
    config = config_of(trained[1])
    config["config"]["layers"][1].update(
        module="acme.layers", class_name="Gate", registered_name="acme>Gate"
    )
    path = rewritten(trained[1], tmp_path / "m.keras", config__json=config)
    error = refusal(path, CheckpointError)
    assert error.fix == "--custom-objects acme.layers"
    assert "class 'acme>Gate' (Gate 'dense" in error.message


def test_an_error_in_the_users_from_config_is_told_with_their_line(custom, code):
    broken = CODE.replace(
        "    def build(self, shape):", "    def build(self, shape):\n        1 / 0"
    )
    code.write_text(broken, encoding="utf-8")
    error = refusal(custom, CheckpointError, custom_objects=(str(code),))
    assert error.slug == "cannot-load"
    assert "ZeroDivisionError: division by zero" in error.message
    assert "my_objects.py, line 7" in error.message


# --- what is refused ------------------------------------------------------------------------------


def test_a_lambda_layer_is_refused_until_it_is_trusted(tmp_path):
    model = dense(keras.layers.Lambda(lambda x: x * 2.0))
    model.compile("sgd", "mse")
    path = tmp_path / "l.keras"
    model.save(path)
    error = refusal(path, RefusedError)
    assert error.slug == "unsafe-lambda"
    assert "Lambda 'lambda" in error.message
    assert "--trust" in error.fix
    opened = load(path, trust=True)
    np.testing.assert_allclose(
        opened.model(np.ones((1, 4))).numpy(), model(np.ones((1, 4))).numpy()
    )


def test_a_lambda_of_a_named_function_needs_its_code_and_no_trust(tmp_path):
    def double(x):
        return x * 2.0

    model = dense(keras.layers.Lambda(double))
    model.compile("sgd", "mse")
    model.save(tmp_path / "l.keras")
    assert "'double'" in refusal(tmp_path / "l.keras", CheckpointError).message
    (tmp_path / "named.py").write_text("def double(x):\n    return x * 2.0\n", encoding="utf-8")
    load(tmp_path / "l.keras", custom_objects=(str(tmp_path / "named.py"),))


@pytest.mark.parametrize(
    ("module", "class_name", "name"),
    [
        ("keras.config", "function", "set_floatx"),
        ("keras.utils", "function", "get_file"),
        ("keras.saving", "KerasFileEditor", ""),
        ("keras.models", "function", "load_model"),
        ("keras.layers", "function", "deserialize"),
        ("keras.src.utils.file_utils", "function", "get_file"),
        ("keras.layers", "TFSMLayer", ""),
        ("keras.layers", "TorchModuleWrapper", ""),
    ],
)
def test_what_no_model_needs_is_refused_before_keras_sees_it(
    trained, tmp_path, module, class_name, name
):
    config = config_of(trained[1])
    config["config"]["layers"][1]["config"]["activation"] = {
        "module": module,
        "class_name": class_name,
        "config": name or {},
        "registered_name": None,
    }
    path = rewritten(trained[1], tmp_path / "m.keras", config__json=config)
    assert refusal(path, RefusedError).slug in ("unsafe-config", "unsafe-layer")


def test_a_config_bomb_is_refused_before_it_takes_memory(trained, tmp_path):
    config = config_of(trained[1])
    config["config"]["layers"][1]["config"]["units"] = 500_000_000
    path = rewritten(trained[1], tmp_path / "m.keras", config__json=config)
    error = refusal(path, RefusedError)
    assert error.slug == "config-bomb"
    assert "2,000,000,003 weights" in error.message


def test_a_config_that_is_too_deep_is_refused(trained, tmp_path):
    deep = '{"a":' * 300 + "1" + "}" * 300
    path = rewritten(trained[1], tmp_path / "m.keras", config__json=deep)
    assert "200 levels" in refusal(path, RefusedError).why
    deeper = "[" * 200_000 + "]" * 200_000
    path = rewritten(trained[1], tmp_path / "n.keras", config__json=deeper)
    assert refusal(path, RefusedError).slug == "checkpoint-bomb"


@pytest.mark.parametrize("text", ["{", "[]", "NaN", "\x00"])
def test_a_config_that_is_no_object_is_refused(trained, tmp_path, text):
    path = rewritten(trained[1], tmp_path / "m.keras", config__json=text)
    assert refusal(path, RefusedError).slug == "damaged-checkpoint"


def test_a_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(80 << 20))
    assert "unpacks to" in refusal(path, RefusedError).why


def test_a_member_that_is_missing_is_named(trained, tmp_path):
    path = rewritten(trained[1], tmp_path / "m.keras", model__weights__h5=None)
    assert "holds no model.weights.h5" in refusal(path, CheckpointError).message


def test_every_truncation_is_refused(trained, tmp_path):
    whole = trained[1].read_bytes()
    path = tmp_path / "cut.keras"
    for length in (4, 100, 2000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert refusal(path, RefusedError).slug == "damaged-checkpoint", length


def test_a_flipped_bit_in_the_weights_is_refused(trained, tmp_path):
    whole = bytearray(trained[1].read_bytes())
    with zipfile.ZipFile(trained[1]) as archive:
        offset = archive.getinfo("model.weights.h5").header_offset
    whole[offset + 3000] ^= 4
    (tmp_path / "m.keras").write_bytes(whole)
    assert "CRC" in refusal(tmp_path / "m.keras", RefusedError).why


def test_weights_that_declare_a_terabyte_or_point_elsewhere_are_refused(trained, tmp_path):
    import h5py

    for name in ("huge", "link", "external"):
        weights = tmp_path / f"{name}.h5"
        with h5py.File(weights, "w") as file:
            if name == "huge":
                file.create_dataset("vars", shape=(1 << 37,), dtype="f8", chunks=(1 << 20,))
            elif name == "link":
                file["layers"] = h5py.ExternalLink("/etc/hostname", "/")
            else:
                file.create_dataset("vars", (4,), "u1", external=[("/etc/hostname", 0, 4)])
        path = rewritten(
            trained[1], tmp_path / f"{name}.keras", model__weights__h5=weights.read_bytes()
        )
        assert refusal(path, RefusedError).slug == "unsafe-weights", name


def test_weights_that_are_no_hdf5_are_refused(trained, tmp_path):
    path = rewritten(trained[1], tmp_path / "m.keras", model__weights__h5=b"no weights" * 50)
    assert refusal(path, RefusedError).slug == "damaged-checkpoint"


def test_a_file_named_keras_that_is_no_zip_is_no_checkpoint(tmp_path):
    (tmp_path / "m.keras").write_text("version https://git-lfs.github.com/spec/v1")
    error = refusal(tmp_path / "m.keras", CheckpointError)
    assert error.slug == "not-a-checkpoint"
    assert "zip archive" in error.why


def test_a_missing_file_is_not_found(tmp_path):
    assert refusal(tmp_path / "m.keras", NotFoundError).slug == "checkpoint-not-found"


def test_a_preflight_needs_no_tensorflow(trained):
    program = (
        "import sys; from pathlib import Path;"
        "from divergence_doctor.checkpoints import *;"
        f"o = OpenOptions(); p = Path({str(trained[1])!r});"
        "choose(p, o).preflight(p, o);"
        "print({'tensorflow', 'keras'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "set()"


# --- how it was compiled --------------------------------------------------------------------------


def test_a_model_that_was_not_compiled_says_what_to_pass(tmp_path):
    dense().save(tmp_path / "m.keras")
    error = refusal(tmp_path / "m.keras", CheckpointError)
    assert error.slug == "not-compiled"
    assert "no loss and no optimizer" in error.message
    assert "--loss NAME --optimizer NAME" in error.fix
    opened = load(tmp_path / "m.keras", loss="mse", optimizer="adam", learning_rate=0.25)
    assert float(opened.model.optimizer.learning_rate) == 0.25
    assert opened.fidelity["optimizer_state"] == "missing"
    assert any("fresh adam" in note for note in opened.fidelity["notes"])
    fitted(opened.model)


def test_an_archive_that_lost_its_optimizer_does_not_get_rmsprop_in_its_place(tmp_path):
    model = dense()
    model.compile(keras.optimizers.Adam(0.5), "mse")
    fitted(model).save(tmp_path / "m.h5")
    model.save(tmp_path / "m.keras")
    error = refusal(tmp_path / "m.keras", CheckpointError)
    assert error.slug == "not-compiled"
    assert "saved as .h5 before" in error.why
    opened = load(tmp_path / "m.keras", optimizer="adam")
    assert float(opened.model.optimizer.learning_rate) == 0.5
    assert int(opened.model.optimizer.iterations.numpy()) == 2
    assert opened.fidelity["optimizer_state"] == "restored"
    assert load(tmp_path / "m.keras", optimizer="sgd").fidelity["optimizer_state"] == "missing"


def test_the_same_optimizer_keeps_its_slots_and_another_starts_fresh(trained):
    opened = load(trained[1], optimizer="adam")
    assert opened.fidelity["optimizer_state"] == "restored"
    assert float(opened.model.optimizer.learning_rate) == pytest.approx(0.01)
    opened = load(trained[1], optimizer="sgd", learning_rate=0.75)
    assert type(opened.model.optimizer).__name__ == "SGD"
    assert float(opened.model.optimizer.learning_rate) == 0.75
    assert opened.fidelity["optimizer_state"] == "missing"
    assert opened.model.loss == "mse"


def test_another_loss_keeps_the_slots(trained):
    model, path = trained
    opened = load(path, loss="mae")
    assert opened.model.loss == "mae" or opened.model.loss.__name__ == "mean_absolute_error"
    np.testing.assert_array_equal(
        opened.model.optimizer.variables[2].numpy(), model.optimizer.variables[2].numpy()
    )
    assert opened.fidelity["optimizer_state"] == "restored"


@pytest.mark.parametrize("option", ["loss", "optimizer"])
def test_an_unknown_name_is_told(trained, option):
    error = refusal(trained[1], CheckpointError, **{option: "adma"})
    assert error.slug == f"unknown-{option}"
    assert "'adma'" in error.message


def test_a_loss_of_the_users_may_be_named(trained, code):
    opened = load(trained[1], loss="my_loss", custom_objects=(str(code),))
    assert opened.model.loss.__name__ == "my_loss"


def test_a_learning_rate_takes_the_place_of_a_schedule_and_the_slots_stay(tmp_path):
    model = dense()
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 100)
    model.compile(keras.optimizers.Adam(schedule), "mse")
    fitted(model).save(tmp_path / "m.keras")
    opened = load(tmp_path / "m.keras", learning_rate=0.5)
    assert float(opened.model.optimizer.learning_rate) == 0.5
    assert int(opened.model.optimizer.iterations.numpy()) == 2
    kept = {variable.path: variable.numpy() for variable in model.optimizer.variables}
    for variable in opened.model.optimizer.variables:
        if variable.path in kept:
            np.testing.assert_array_equal(variable.numpy(), kept[variable.path])
    assert any("in place of CosineDecay" in note for note in opened.fidelity["notes"])
    fitted(opened.model)


def test_an_overridden_compile_is_told_as_such(tmp_path):
    (tmp_path / "gan.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('g')\n"
        "class Gan(keras.Model):\n"
        "    def __init__(self, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
        "        self.body = keras.layers.Dense(1)\n"
        "    def call(self, x):\n"
        "        return self.body(x)\n"
        "    def compile(self, body_optimizer):\n"
        "        super().compile()\n"
        "        self.body_optimizer = body_optimizer\n"
        "    def train_step(self, data):\n"
        "        return {}\n",
        encoding="utf-8",
    )
    from divergence_doctor.checkpoints._user_code import import_user_code

    gan = import_user_code(str(tmp_path / "gan.py")).Gan()
    gan.compile(keras.optimizers.Adam())
    gan(np.ones((2, 4)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gan.save(tmp_path / "m.keras")
    error = refusal(
        tmp_path / "m.keras", CheckpointError, custom_objects=(str(tmp_path / "gan.py"),)
    )
    assert error.slug == "not-compiled"
    assert "compile() is custom" in error.why


def test_a_model_that_adds_its_own_loss_needs_no_other(tmp_path):
    (tmp_path / "vae.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('v')\n"
        "class Penalty(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        self.add_loss(keras.ops.mean(x))\n"
        "        return x\n",
        encoding="utf-8",
    )
    from divergence_doctor.checkpoints._user_code import import_user_code

    penalty = import_user_code(str(tmp_path / "vae.py")).Penalty
    model = dense(penalty())
    model.compile("sgd")
    model.save(tmp_path / "m.keras")
    opened = load(tmp_path / "m.keras", custom_objects=(str(tmp_path / "vae.py"),))
    assert opened.model.optimizer is not None


# --- mixed precision ------------------------------------------------------------------------------


def saved_mixed(path: Path, *, functional: bool, **compiled: Any) -> Any:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        if functional:
            inputs = keras.Input((4,))
            model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
        else:
            model = dense()
        model.compile("adam", "mse", **compiled)
        fitted(model).save(path)
    finally:
        keras.config.set_dtype_policy("float32")
    return model


@pytest.mark.parametrize("functional", [True, False])
def test_a_loss_scale_comes_back_under_a_float32_policy(tmp_path, functional):
    model = saved_mixed(tmp_path / "m.keras", functional=functional)
    model.optimizer.dynamic_scale.assign(512.0)
    model.save(tmp_path / "m.keras")
    opened = load(tmp_path / "m.keras")
    assert type(opened.model.optimizer).__name__ == "LossScaleOptimizer"
    assert float(opened.model.optimizer.dynamic_scale) == 512.0
    for mine, theirs in zip(
        opened.model.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    assert opened.fidelity["optimizer_state"] == "restored"
    assert opened.source["dtype_policy"] == "mixed_float16"


def test_a_loss_scale_comes_back_where_most_layers_are_float32(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(2)(inputs)
        for _ in range(2):
            hidden = keras.layers.Dense(2, dtype="float32")(hidden)
        model = keras.Model(inputs, keras.layers.Dense(1, dtype="float32")(hidden))
        model.compile("adam", "mse")
        fitted(model).save(tmp_path / "m.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    opened = load(tmp_path / "m.keras")
    assert opened.fidelity["optimizer_state"] == "restored"
    assert type(opened.model.optimizer).__name__ == "LossScaleOptimizer"


def test_a_learning_rate_reaches_the_optimizer_under_the_loss_scale(tmp_path):
    saved_mixed(tmp_path / "m.keras", functional=False)
    opened = load(tmp_path / "m.keras", learning_rate=0.125)
    assert float(opened.model.optimizer.inner_optimizer.learning_rate) == 0.125


def test_mixed_precision_without_a_loss_scale_gets_none(tmp_path):
    model = saved_mixed(tmp_path / "m.keras", functional=False, auto_scale_loss=False)
    opened = load(tmp_path / "m.keras")
    assert type(opened.model.optimizer).__name__ == "Adam"
    for mine, theirs in zip(
        opened.model.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(mine.numpy(), theirs.numpy())
    assert opened.fidelity["optimizer_state"] == "restored"
    assert opened.fidelity["notes"] == [
        "The model was trained in mixed_float16 without loss scaling."
    ]


def test_a_size_that_the_archive_only_claims_is_refused(trained, tmp_path):
    whole = bytearray(trained[1].read_bytes())
    at = whole.rindex(b"PK\x01\x02")
    whole[at + 24 : at + 28] = struct.pack("<I", 0x7FFFFFFF)
    (tmp_path / "m.keras").write_bytes(whole)
    assert refusal(tmp_path / "m.keras", RefusedError).slug == "checkpoint-bomb"
