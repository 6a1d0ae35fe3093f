"""Is a crash bundle opened as the model that was about to fail, with everything where it was?"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest

from divergence_doctor.checkpoints import OpenOptions, Recording, choose, open_checkpoint
from divergence_doctor.checkpoints._recording import columns
from divergence_doctor.errors import CheckpointError, RefusedError, UsageError
from tests import recorded

GENERATOR = np.random.default_rng(0)


def batches(steps=4, *, last=0.0):
    """Return that many batches for a model of 4 inputs and 1 output; the last holds a label."""
    found = [
        (
            GENERATOR.normal(size=(6, 4)).astype("float32"),
            GENERATOR.normal(size=(6, 1)).astype("float32"),
        )
        for _ in range(steps)
    ]
    found[-1][1][2] = last
    return found


def drawing(keras, **options):
    """Return a model that holds every kind of state: slots, statistics, random state."""
    keras.utils.set_random_seed(5)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(8, activation="relu"),
            layers.Dropout(0.5),
            layers.GaussianNoise(0.1),
            layers.BatchNormalization(),
            layers.Dense(1, dtype="float32"),
        ]
    )
    model.compile(options.pop("optimizer", "adam"), options.pop("loss", "mse"), **options)
    return model


@pytest.fixture
def bundle(keras, tmp_path):
    """A bundle whose state is that from before step 1 of 3."""
    contents = recorded.train(drawing(keras), batches(3, last=np.nan), snapshot=1)
    path = recorded.write(tmp_path / "crashes", contents)
    keras.backend.clear_session()
    return path, contents


def opened(path, **options):
    return open_checkpoint(path, OpenOptions(**options))


def rewritten(tmp_path, contents, **changes):
    return recorded.write(tmp_path / "again", replace(contents, **changes))


def state(model):
    """Return every number that a step reads, as bytes, in the order of a bundle."""
    return [(v.role, np.asarray(v.array).tobytes()) for v in recorded.variables(model)]


# ---------------------------------------------------------------------- everything is back


def policies():
    yield "float32", {}
    yield "mixed_float16", {}
    yield "mixed_bfloat16", {}
    yield "bfloat16", {}
    yield "float32", {"optimizer": "sgd"}
    yield "float32", {"optimizer": "rmsprop"}
    yield "float32", {"optimizer": "adamw", "metrics": ["mae"]}
    yield "mixed_float16", {"auto_scale_loss": False}


@pytest.mark.parametrize(("policy", "options"), list(policies()))
def test_every_variable_holds_the_bits_from_before_the_step(keras, tmp_path, policy, options):
    keras.config.set_dtype_policy(policy)
    model = drawing(keras, **options)
    contents = recorded.train(model, batches(3), snapshot=2)
    path = recorded.write(tmp_path, contents)
    keras.config.set_dtype_policy("float32")
    keras.backend.clear_session()
    # What Keras counts through the process must not matter.
    [keras.layers.Dropout(0.1) for _ in range(3)]
    found = opened(path)
    wanted = [
        (v.role, np.asarray(v.array).tobytes()) for v in contents.variables if v.role != "metric"
    ]
    assert [pair for pair in state(found.model) if pair[0] != "metric"] == wanted
    assert found.fidelity["optimizer_state"] == "restored"
    assert found.fidelity["random_state"] == "restored"
    assert found.unseeded == ()
    assert not [note for note in found.fidelity["notes"] if "no value" in note or "order" in note]
    scaled = policy == "mixed_float16" and "auto_scale_loss" not in options
    assert hasattr(found.model.optimizer, "inner_optimizer") is scaled


def test_the_recorded_steps_come_with_it(bundle):
    path, contents = bundle
    recording = opened(path).recording
    assert (recording.failing, recording.snapshot, recording.whole) == (2, 1, True)
    assert [one.step for one in recording.steps] == [1, 2]
    read = recording.steps[1].read()
    assert list(read.arrays) == ["x", "y"]
    np.testing.assert_array_equal(read.arrays["x"], contents.batches[1].arrays["x"])
    assert recording.of(1, "loss") == contents.history["loss"][1]
    assert recording.logged(1) == recording.of(1, "loss")
    assert np.isnan(recording.logged(2))
    assert recording.logged(9) is None
    assert (recording.loop, recording.trigger) == ("fit", "non-finite-loss")


@pytest.mark.parametrize("mode", ["eager", "graph", "jit"])
def test_the_step_runs_as_it_was_recorded(keras, tmp_path, mode):
    options = {"run_eagerly": mode == "eager", "jit_compile": mode == "jit"}
    model = drawing(keras, steps_per_execution=2, **options)
    path = recorded.write(tmp_path, recorded.train(model, batches(2), snapshot=0))
    keras.backend.clear_session()
    model = opened(path).model
    assert (model.run_eagerly, model.jit_compile) == (mode == "eager", mode == "jit")
    assert model.steps_per_execution == 2


def test_an_optimizer_that_had_not_stepped_starts_as_fresh_as_it_was(keras, tmp_path):
    contents = recorded.train(drawing(keras), batches(2), snapshot=0)
    bare = [v for v in contents.variables if not v.path.endswith(("momentum", "velocity"))]
    path = rewritten(tmp_path, contents, variables=bare)
    keras.backend.clear_session()
    found = opened(path)
    assert found.fidelity["optimizer_state"] == "restored"
    assert [n for n in found.fidelity["notes"] if "as fresh as it was" in n]


def test_what_was_left_out_is_told(keras, tmp_path):
    contents = recorded.train(drawing(keras), batches(3), snapshot=2)
    without = [v for v in contents.variables if v.role != "optimizer"]
    path = rewritten(tmp_path, contents, variables=without)
    keras.backend.clear_session()
    found = opened(path)
    assert found.fidelity["optimizer_state"] == "missing"
    assert [n for n in found.fidelity["notes"] if "holds none of its state" in n]
    seedless = [v for v in contents.variables if v.role != "seed"]
    found = opened(rewritten(tmp_path / "seedless", contents, variables=seedless))
    assert found.fidelity["random_state"] == "missing"
    assert len(found.unseeded) == 2


def test_other_versions_and_flags_are_told(keras, tmp_path):
    contents = recorded.train(drawing(keras), batches(2), snapshot=0)
    manifest = {
        **contents.manifest,
        "versions": {"tensorflow": "2.99.0", "keras": keras.__version__},
        "devices": ["GPU: /physical_device:GPU:0"],
        "environment": {"XLA_FLAGS": "--xla_cpu_enable_fast_math", "TF_CPP_MIN_LOG_LEVEL": "9"},
        "git": "abc1234",
    }
    found = opened(rewritten(tmp_path, contents, manifest=manifest))
    told = "; ".join(found.recording.elsewhere)
    assert "TensorFlow 2.99.0 there and 2." in told
    assert "GPU there and CPU here" in told
    assert "XLA_FLAGS=--xla_cpu_enable_fast_math there and not here" in told
    assert "Keras" not in told
    assert "TF_CPP_MIN_LOG_LEVEL" not in told
    assert [n for n in found.fidelity["notes"] if "git commit abc1234" in n]


def test_a_learning_rate_asked_for_replaces_the_recorded_one(bundle):
    path, _ = bundle
    found = opened(path, learning_rate=0.5)
    assert float(found.model.optimizer.learning_rate) == 0.5
    assert found.fidelity["optimizer_state"] == "restored"


# ---------------------------------------------------------------------- the user's own code

SCRIPT = """
import keras
import numpy as np

class Block(keras.layers.Layer):
    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units
        self.inner = keras.layers.Dense(units)
        self.drop = keras.layers.Dropout(0.3)
    def call(self, x, training=False):
        return self.drop(self.inner(x), training=training)
    def get_config(self):
        return {**super().get_config(), "units": self.units}

def loss(y, p):
    return keras.ops.mean((y - p) ** 2, axis=-1)

def build():
    model = keras.Sequential([keras.Input((4,)), Block(5), Block(3), keras.layers.Dense(1)])
    model.compile("adam", loss)
    return model

if __name__ == "__main__" or True:
    build()
    model = build()
    model.fit(np.ones((2, 4)), np.ones((2, 1)), verbose=0)
    raise SystemExit("it trained again")
"""


@pytest.fixture
def scripted(keras, tmp_path):
    """A bundle of a model made of classes that a training script defines; and the script."""
    script = tmp_path / "train_mine.py"
    script.write_text(SCRIPT, encoding="utf-8")
    space = {"__name__": "__main__"}
    exec(compile(SCRIPT.partition("if __name__")[0], str(script), "exec"), space)  # noqa: S102
    contents = recorded.train(space["build"](), batches(3), snapshot=2)
    code = {
        "main": str(script), "sha256": "0" * 64, "modules": ["__main__"],
        "argument": f"--custom-objects {script}",
    }  # fmt: skip
    manifest = {**contents.manifest, "user_code": code}
    path = rewritten(tmp_path, contents, manifest=manifest)
    keras.backend.clear_session()
    return path, script, contents


def test_without_the_script_the_error_says_which_argument_to_give(scripted):
    path, script, _ = scripted
    with pytest.raises(CheckpointError) as caught:
        opened(path)
    assert caught.value.slug == "unknown-custom-objects"
    assert "'Block'" in caught.value.message
    assert caught.value.fix.startswith(f"--custom-objects {script}")
    assert script.stem not in sys.modules


def test_the_script_is_imported_without_training_again(scripted):
    path, script, contents = scripted
    found = opened(path, custom_objects=(str(script),))
    kept = [np.asarray(v.array).tobytes() for v in contents.variables if v.role != "metric"]
    assert [value for role, value in state(found.model) if role != "metric"] == kept
    assert found.fidelity["random_state"] == "restored"
    assert "train_mine.py is not what it was when the run died." in found.fidelity["notes"]
    assert type(found.model.layers[0]).__module__ == script.stem


def test_a_factory_makes_the_model_where_the_config_is_not_kept(scripted, tmp_path):
    _, script, contents = scripted
    why = "Block cannot be serialised: NotImplementedError"
    manifest = {**contents.manifest, "model": {"config": None, "why": why},
                "user_code": {"main": str(script)}}  # fmt: skip
    bare = recorded.write(tmp_path / "bare", replace(contents, model=None, manifest=manifest))
    with pytest.raises(CheckpointError) as caught:
        opened(bare)
    assert (caught.value.slug, caught.value.why) == ("model-needed", why)
    assert "--model train_mine.py:FUNCTION" in caught.value.fix
    found = opened(bare, model=f"{script}:build")
    kept = [np.asarray(v.array).tobytes() for v in contents.variables if v.role != "metric"]
    assert [value for role, value in state(found.model) if role != "metric"] == kept


def test_a_model_of_a_loop_of_ones_own_says_what_it_needs(keras, tmp_path):
    model = drawing(keras)
    contents = recorded.train(model, batches(3), snapshot=2)
    config = {k: v for k, v in contents.model["config"].items() if k != "compile_config"}
    path = rewritten(
        tmp_path,
        contents,
        model={"config": config, "compile": None},
        manifest={**contents.manifest, "loop": "custom"},
    )
    keras.backend.clear_session()
    with pytest.raises(CheckpointError) as caught:
        opened(path)
    assert caught.value.slug == "not-compiled"
    assert "--loss NAME --optimizer NAME" in caught.value.fix
    found = opened(path, loss="mse", optimizer="adam")
    assert found.fidelity["optimizer_state"] == "restored"
    kept = [np.asarray(v.array).tobytes() for v in contents.variables if v.role != "metric"]
    assert [value for role, value in state(found.model) if role != "metric"] == kept
    other = opened(path, loss="mse", optimizer="sgd")
    assert other.fidelity["optimizer_state"] == "missing"


# ---------------------------------------------------------------------- what is refused


def test_a_bundle_needs_no_batch_and_one_without_data_says_that_it_does(bundle, tmp_path):
    path, contents = bundle
    choose(path, OpenOptions()).without_batch(path)
    private = recorded.write(tmp_path / "private", contents, data=False)
    with pytest.raises(UsageError) as caught:
        choose(private, OpenOptions()).without_batch(private)
    assert caught.value.slug == "no-batch"
    assert "data=False" in caught.value.why
    assert "training step 2" in caught.value.fix
    opened(private)


def test_a_bundle_without_weights_cannot_be_replayed(bundle, tmp_path):
    _, contents = bundle
    kept = [v for v in contents.variables if v.role not in {"weight", "optimizer"}]
    path = recorded.write(tmp_path / "light", replace(contents, variables=kept))
    with pytest.raises(CheckpointError) as caught:
        opened(path)
    assert caught.value.slug == "no-weights"


LAMBDA = {"module": "builtins", "class_name": "__lambda__", "config": {"value": ["", None, None]}}
HOSTILE = {
    "unsafe-lambda": {"class_name": "Sequential", "module": "keras",
                      "config": {"layers": [LAMBDA]}},
    "unsafe-config": {"class_name": "function", "module": "keras.utils", "config": "get_file"},
    "config-bomb": {"class_name": "Dense", "module": "keras.layers",
                    "config": {"name": "d", "units": 10**9},
                    "build_config": {"input_shape": [None, 10**6]}},
}  # fmt: skip


def test_hostile_bundles_are_refused_before_tensorflow_is_touched(bundle, tmp_path):
    _, contents = bundle
    for slug, config in HOSTILE.items():
        recorded.write(tmp_path / slug, replace(contents, model={"config": config}))
    cut = recorded.write(tmp_path / "damaged-bundle", contents)
    file = cut / "state" / "00000.npy"
    file.chmod(0o600)
    file.write_bytes(file.read_bytes()[:-8])
    unfinished = recorded.write(tmp_path / "unfinished-bundle", contents)
    (unfinished / "manifest.json").unlink()
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(f"""
            import sys
            from pathlib import Path
            from divergence_doctor.checkpoints import OpenOptions, choose
            from divergence_doctor.errors import RefusedError
            for slug in {[*HOSTILE, "damaged-bundle", "unfinished-bundle"]}:
                (path,) = Path({str(tmp_path)!r}, slug).glob("crash-*")
                try:
                    choose(path, OpenOptions()).preflight(path, OpenOptions())
                except RefusedError as error:
                    assert error.exit_status == 4
                    print(error.slug, "|", error.fix)
            assert not {{"tensorflow", "keras"}} & set(sys.modules)
        """)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert [line.partition(" | ")[0] for line in told.splitlines()] == [
        *HOSTILE, "damaged-bundle", "unfinished-bundle",
    ]  # fmt: skip
    assert "doctor salvage" in told.splitlines()[-1]
    with pytest.raises(RefusedError):
        opened(unfinished)


def test_only_flags_that_are_numbers_are_taken_over_from_a_bundle(keras, tmp_path):
    contents = recorded.train(drawing(keras), batches(2), snapshot=0)
    said = {
        "TF_ENABLE_ONEDNN_OPTS": "0", "OMP_NUM_THREADS": "3", "TF_DETERMINISTIC_OPS": "1; rm",
        "TF_PLUGGABLE_DEVICE_LIBRARY_PATH": "evil.so", "XLA_FLAGS": "--xla_dump_to=/etc",
    }  # fmt: skip
    manifest = {**contents.manifest, "environment": said}
    path = rewritten(tmp_path, contents, manifest=manifest)
    flags = choose(path, OpenOptions()).environment(path)
    assert flags == {"TF_ENABLE_ONEDNN_OPTS": "0", "OMP_NUM_THREADS": "3"}


def test_the_folder_of_all_bundles_names_the_latest(bundle):
    path, _ = bundle
    with pytest.raises(CheckpointError) as caught:
        choose(path.parent, OpenOptions())
    assert caught.value.why == f"it holds 1 crash bundle: name one, {path}"


def test_a_history_that_makes_no_sense_is_left_out_row_by_row():
    told = {
        "step": (3, None, 5, 4, True, 7, 2**70, float("nan"), 9),
        "epoch": (0, 0, -1, 0, 0, 2**80, 0, 0, None),
        "loss": (1, 2, 10**400, 4, 5, float("nan"), 7, 8, None),
        "learning_rate": (0.1, 0.2),
    }
    found = columns(told)
    assert found["step"] == (3, 5, 7, 9)
    assert found["epoch"] == (0, None, None, None)
    assert found["loss"][:2] == (1.0, None)
    assert np.isnan(found["loss"][2])
    assert "learning_rate" not in found
    recording = Recording(bundle=None, failing=9, snapshot=3, steps=(), history=found)
    assert recording.logged(3) == 1.0
    assert recording.logged(4) is recording.logged(9) is None
    assert (recording.epoch(3), recording.epoch(5)) == (0, -1)
    assert columns({}) == {"step": ()}


def test_what_a_salvaged_bundle_lacks_is_told(bundle, tmp_path):
    from divergence_doctor.bundle import salvage

    path, _ = bundle
    partial = path.with_name(f".{path.name}.partial")
    path.rename(partial)
    (partial / "manifest.json").unlink()
    last = max((partial / "state").iterdir())
    last.unlink()
    found = opened(salvage(partial, tmp_path / "saved"))
    assert found.recording.whole
    told = " ".join(found.fidelity["notes"])
    assert "The bundle lacks what adam/sequential_dense_1_bias_velocity held." in told
    assert "salvaged from an interrupted one" in told
    assert found.fidelity["optimizer_state"] == "partial"
    assert "the bundle lacks what" in found.recording.elsewhere[0]
