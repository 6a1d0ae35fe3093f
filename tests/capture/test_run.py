"""``doctor run``: an unchanged script runs as Python would run it, and leaves a bundle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from divergence_doctor.bundle import open_bundle, verify

ROOT = Path(__file__).parents[2]


def _python(folder, *arguments, module="divergence_doctor"):
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    start = ["-m", module] if module else []
    return subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip


def _script(folder, text, name="train.py"):
    (folder / name).write_text(textwrap.dedent(text), encoding="utf-8")


def _bundles(folder):
    found = sorted((folder / "crashes").glob("crash-*"))
    for path in found:
        assert verify(path) == ()
    return [open_bundle(path) for path in found]


def _arrays(batch):
    with np.load(batch.path, allow_pickle=False) as arrays:
        return dict(arrays)


# --------------------------------------------------------------- as Python would, without Keras

PLAIN = """
    import json, os, pickle, sys
    class Mine: ...
    assert type(pickle.loads(pickle.dumps(Mine()))) is Mine
    assert sys.modules["__main__"].Mine is Mine
    print(json.dumps({
        "argv": sys.argv, "path": sys.path[0], "name": __name__, "file": __file__,
        "spec": None if __spec__ is None else __spec__.name, "package": __package__,
        "doc": __doc__, "builtins": type(__builtins__).__name__,
        "keras": any(name in sys.modules for name in ("keras", "tensorflow")),
        "globals": sorted(globals()),
    }))
"""


@pytest.mark.parametrize("module", [False, True])
def test_a_script_finds_what_python_would_have_given_it(tmp_path, module):
    _script(tmp_path, PLAIN)
    target = ["-m", "train"] if module else ["train.py"]
    arguments = ["--epochs", "3", "--help", "-x", "--keep"]
    plain = _python(tmp_path, *target, *arguments, module=None)
    mine = _python(tmp_path, "run", *target, *arguments)
    assert plain.returncode == 0, plain.stderr
    assert mine.stdout == plain.stdout
    assert '"keras": false' in mine.stdout
    assert (mine.returncode, mine.stderr) == (0, "")


ENDS = {
    "status": "import sys; sys.exit(7)",
    "130": "import sys; sys.exit(130)",
    "words": "import sys; sys.exit('it is over')",
    "exception": "def f():\n    raise ValueError('mine')\ntry:\n    f()\nexcept ValueError as e:\n"
                 "    raise KeyError('other') from e",
    "ctrl-c": "raise KeyboardInterrupt",
    "syntax": "def f(:\n    pass",
    "signal": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "hook": "import sys\nsys.excepthook = lambda kind, e, trace: print(kind.__name__, e)\n1 / 0",
    "atexit": "import atexit; atexit.register(print, 'last words'); raise SystemExit(3)",
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_a_script_ends_as_it_would_have(tmp_path, end):
    _script(tmp_path, ENDS[end])
    plain = _python(tmp_path, "train.py", module=None)
    mine = _python(tmp_path, "run", "train.py")
    assert (mine.returncode, mine.stdout) == (plain.returncode, plain.stdout)
    assert mine.stderr == plain.stderr


def test_a_child_process_that_is_spawned_finds_the_classes_of_the_script(tmp_path):
    _script(tmp_path, """
        import multiprocessing
        class Mine:
            value = 3
        def work(given):
            return given.value + 1
        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(work, [Mine()]))
    """)  # fmt: skip
    mine = _python(tmp_path, "run", "train.py")
    assert mine.stdout == "[4]\n", mine.stderr


def test_a_script_that_is_not_there_is_a_usage_error(tmp_path):
    for arguments in (["nothing.py"], ["-m", "no.such.module"], ["--on-failure", "x", "train.py"]):
        _script(tmp_path, "print('ran')")
        said = _python(tmp_path, "run", *arguments)
        assert said.returncode == 2
        assert said.stderr.startswith("error["), said.stderr
        assert "  fix: " in said.stderr
        assert said.stdout == ""


# ------------------------------------------------------------------ the styles of Keras' guides

FUNCTIONAL = """
    import sys
    assert "keras" not in sys.modules
    import numpy as np
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape=(6,), name="digits")
    x = layers.Dense(8, activation="tanh", name="dense_1")(inputs)
    x = layers.Dropout(0.2)(x)
    outputs = layers.Dense(3, activation="softmax", name="predictions")(x)
    model = keras.Model(inputs=inputs, outputs=outputs)
    model.compile(optimizer=keras.optimizers.RMSprop(),
                  loss=keras.losses.SparseCategoricalCrossentropy(),
                  metrics=[keras.metrics.SparseCategoricalAccuracy()])
    rng = np.random.default_rng(0)
    x_train, y_train = rng.random((64, 6)).astype("float32"), rng.integers(3, size=64)
    x_train[40, 2] = np.nan
    history = model.fit(x_train, y_train, batch_size=8, epochs=2, shuffle=False,
                        validation_data=(x_train[:8], y_train[:8]), verbose=0,
                        class_weight={0: 1.0, 1: 2.0, 2: 0.5})
    print(len(history.history["loss"]), model.stop_training)
"""

SUBCLASS = """
    import os
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import numpy as np
    import tensorflow as tf
    import keras

    class CustomModel(keras.Model):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.loss_tracker = keras.metrics.Mean(name="loss")
            self.loss_fn = keras.losses.MeanSquaredError()

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.loss_fn(y, self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            self.loss_tracker.update_state(loss)
            return {"loss": self.loss_tracker.result()}

        @property
        def metrics(self):
            return [self.loss_tracker]

    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape=(4,))
    model = CustomModel(inputs, keras.layers.Dense(1)(inputs))
    model.compile(optimizer="adam")
    x = np.random.default_rng(0).random((40, 4)).astype("float32")
    y = x.sum(axis=1, keepdims=True)
    y[20] = np.inf
    model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
"""

ON_BATCH = """
    import numpy as np, keras
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    buffer = np.empty((8, 4), "float32")
    for step in range(6):
        buffer[:] = step
        target = np.full((8, 1), np.nan if step == 3 else 1.0, "float32")
        model.train_on_batch(buffer, target)
    buffer[:] = -1
"""

CUSTOM_LOOP = """
    import numpy as np, tensorflow as tf, keras
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.01)
    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(x, training=True) - y) ** 2)
        optimizer.apply(tape.gradient(loss, model.trainable_weights), model.trainable_weights)
        return loss
    dataset = tf.data.Dataset.from_tensor_slices((tf.ones((16, 4)), tf.ones((16, 1)))).batch(4)
    for x, y in dataset:
        loss = train_step(x, y)
    print("finished", bool(loss > 0))
"""


def test_a_script_with_a_functional_model_leaves_the_batch_and_its_weights(tmp_path):
    _script(tmp_path, FUNCTIONAL)
    said = _python(tmp_path, "run", "--crashes", "crashes", "train.py")
    assert said.returncode == 0, said.stderr
    assert said.stdout == "1 True\n"
    (bundle,) = _bundles(tmp_path)
    assert f"doctor replay crashes/{bundle.path.name}" in said.stderr
    assert (bundle.reason["trigger"], bundle.reason["step"]) == ("non-finite-loss", 5)
    manifest = bundle.manifest
    assert manifest["class_weight"] == {"0": 1.0, "1": 2.0, "2": 0.5}
    assert manifest["loop"] == "fit"
    assert manifest["user_code"]["main"] == str(tmp_path / "train.py")
    assert manifest["user_code"]["argument"] is None
    last = _arrays(bundle.batches[-1])
    assert sorted(last) == ["sample_weight", "x", "y"]
    assert set(last["sample_weight"].tolist()) <= {1.0, 2.0, 0.5}


def test_a_script_with_a_train_step_of_its_own_says_how_its_class_comes_back(tmp_path):
    _script(tmp_path, SUBCLASS)
    said = _python(tmp_path, "run", "-m", "train")
    assert said.returncode == 0, said.stderr
    (bundle,) = _bundles(tmp_path)
    assert bundle.reason["step"] == 2
    argument = f"--custom-objects {tmp_path / 'train.py'}"
    assert bundle.manifest["user_code"]["argument"] == argument
    assert argument in said.stderr


def test_train_on_batch_is_recorded_and_a_reused_buffer_is_kept_as_it_was(tmp_path):
    _script(tmp_path, ON_BATCH)
    said = _python(tmp_path, "run", "train.py")
    assert said.returncode == 0, said.stderr
    (bundle,) = _bundles(tmp_path)
    assert (bundle.reason["step"], bundle.manifest["loop"]) == (3, "train_on_batch")
    assert [float(_arrays(batch)["x"][0, 0]) for batch in bundle.batches][-1] == 3.0
    assert bundle.history["step_loss"][:2] != (None, None)


def test_in_a_loop_of_ones_own_nothing_is_recorded_and_it_says_how(tmp_path):
    _script(tmp_path, CUSTOM_LOOP, "loop.py")
    said = _python(tmp_path, "run", "loop.py")
    assert (said.returncode, said.stdout) == (0, "finished True\n")
    assert "with recorder.step(batch)" in said.stderr


def test_raise_ends_the_script_with_a_traceback_of_the_users_own_lines(tmp_path):
    _script(tmp_path, FUNCTIONAL)
    said = _python(tmp_path, "run", "--on-failure", "raise", "--no-data", "train.py")
    assert said.returncode == 1
    lines = said.stderr.splitlines()
    assert "DivergenceError: step 5: the loss of the step is nan" in lines[-1]
    shown = [line for line in lines if line.startswith('  File "')]
    assert shown
    assert "train.py" in shown[0]
    assert not any("divergence_doctor" in line for line in shown)
    (bundle,) = _bundles(tmp_path)
    assert bundle.batches == ()


def test_sigterm_ends_a_recorded_script_as_it_would_and_leaves_a_bundle(tmp_path):
    _script(tmp_path, FUNCTIONAL.replace("x_train[40, 2] = np.nan", "").replace(
        "verbose=0,", "verbose=0, callbacks=[keras.callbacks.LambdaCallback("
        "on_epoch_end=lambda epoch, logs: __import__('os').kill(__import__('os').getpid(), 15))],",
    ))  # fmt: skip
    said = _python(tmp_path, "run", "--signals", "train.py")
    assert said.returncode == -signal.SIGTERM, said.stderr
    (bundle,) = _bundles(tmp_path)
    assert bundle.reason["trigger"] == "signal"
