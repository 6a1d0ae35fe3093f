"""What goes wrong with the recorder itself is one warning; the weights are the same without it."""

# ruff: noqa: ARG002 - Keras calls callbacks and layers with what it calls them with

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from divergence_doctor import FlightRecorder
from divergence_doctor.bundle import open_bundle, verify
from divergence_doctor.errors import OutputError, UsageError
from tests.bundle._faults import Counting, Failing
from tests.capture._models import BATCH, assert_same, data, dropout, poisoned

ROOT = Path(__file__).parents[2]
CODES = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS)


def _fit(model, recorder, x, y):
    """Train, and return what was warned of."""
    callbacks = [] if recorder is None else [recorder]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, epochs=2, callbacks=callbacks)
    return [str(one.message) for one in caught if "divergence_doctor" in str(one.message)]


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The temporary folder, where what cannot be written into the asked one goes."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return tmp_path / "temporary"


def _recorder(tmp_path, fs=None, **asked):
    recorder = FlightRecorder(
        tmp_path / "crashes", on_failure="continue", snapshot_every=2, verbose=0, **asked
    )
    if fs is not None:
        recorder.recorder.fs = fs
    return recorder


@pytest.mark.parametrize("lasting", [True, False])
def test_whichever_call_fails_the_training_is_the_same(keras, tmp_path, elsewhere, lasting):
    x, y = poisoned()
    plain = dropout(run_eagerly=True)
    _fit(plain, None, x, y)
    counting = Counting()
    assert _fit(dropout(run_eagerly=True), _recorder(tmp_path, counting), x, y) == []
    # Every call of a bundle fails once in tests/bundle; here it is the training that counts.
    numbers = range(1, len(counting.calls) + 1, 1 + len(counting.calls) // 6)
    for number in numbers:
        fs = Failing(number, CODES[number % len(CODES)], on=lasting)
        model = dropout(run_eagerly=True)
        recorder = _recorder(tmp_path / str(number), fs)
        said = _fit(model, recorder, x, y)
        assert fs.failed
        assert len(said) <= 1, said
        assert_same(model, plain)
        assert recorder.recorder.step == 14
        for path in recorder.bundles:
            assert verify(path) == ()


@pytest.mark.parametrize("number", [1, 2, 9, 10, 20, 33])
def test_an_error_of_its_own_ends_the_recorder_and_nothing_else(keras, tmp_path, number):
    plain, model = dropout(), dropout()
    x, y = data()
    _fit(plain, None, x, y)
    calls = []

    def clock():
        calls.append(0)
        if len(calls) >= number:
            raise MemoryError("no more")
        return float(len(calls))

    recorder = _recorder(tmp_path)
    recorder.recorder.pace.clock = clock
    said = _fit(model, recorder, x, y)
    (line,) = said
    assert "the flight recorder stopped, training goes on: MemoryError: no more" in line
    assert_same(model, plain)
    assert not recorder.recorder.ring


def test_where_warnings_are_errors_training_goes_on_as_well(keras, tmp_path, capfd):
    recorder = _recorder(tmp_path)

    def clock():
        raise MemoryError("no more")

    recorder.recorder.pace.clock = clock
    x, y = data()
    model = dropout()
    # pytest is told to make every warning an error.
    model.fit(x, y, batch_size=BATCH, verbose=0, callbacks=[recorder])
    assert int(model.optimizer.iterations) == 7
    assert "MemoryError: no more" in capfd.readouterr().err


def test_a_folder_that_is_gone_by_then_is_made_again(keras, tmp_path):
    class Removes(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            shutil.rmtree(tmp_path / "crashes", ignore_errors=True)

    recorder = _recorder(tmp_path)
    x, y = poisoned()
    dropout().fit(x, y, batch_size=BATCH, shuffle=False, verbose=0,
                  callbacks=[Removes(), recorder])  # fmt: skip
    assert len(recorder.bundles) == 1


def test_a_folder_that_cannot_be_written_any_more_sends_the_bundle_to_the_temporary_one(
    keras, tmp_path, elsewhere
):
    class Blocks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 1:
                shutil.rmtree(tmp_path / "crashes")
                (tmp_path / "crashes").write_text("a file in its place")

    recorder = _recorder(tmp_path)
    x, y = poisoned()
    with pytest.warns(RuntimeWarning, match="cannot be written") as caught:
        dropout().fit(x, y, batch_size=BATCH, shuffle=False, verbose=0,
                      callbacks=[Blocks(), recorder])  # fmt: skip
    (path,) = recorder.bundles
    assert path.parent.parent == elsewhere
    assert path.parent.stat().st_mode & 0o077 == 0
    assert str(path) in str(caught[0].message)
    assert open_bundle(path).reason["step"] == 2
    assert oct(path.stat().st_mode & 0o777) == "0o700"


def test_a_folder_that_cannot_be_written_is_refused_before_training_begins(keras, tmp_path):
    (tmp_path / "crashes").write_text("a file in its place")
    model = dropout()
    with pytest.raises(OutputError, match="cannot be written into") as refused:
        _fit(model, _recorder(tmp_path), *data())
    assert "FlightRecorder(" in refused.value.fix
    assert int(model.optimizer.iterations) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"on_failure": "explode"},
        {"budget": 0},
        {"budget": 2.0},
        {"snapshot_every": 0},
        {"spike": 1.0},
        {"keep": 0},
        {"max_bytes": 0},
        {"ring_bytes": 0},
    ],
)
def test_an_argument_that_cannot_be_is_told_at_once(tmp_path, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        FlightRecorder(tmp_path, **wrong)


SEVERAL = """
import sys, keras
from tests.capture._models import BATCH, dropout, poisoned
from divergence_doctor import FlightRecorder
recorder = FlightRecorder(sys.argv[1], verbose=0, keep=3)
x, y = poisoned()
model = dropout(run_eagerly=True)
model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[recorder])
print(recorder.bundles[0].name)
"""


def test_several_workers_write_into_one_folder(tmp_path):
    running = []
    for worker in range(2):
        cluster = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": %d}}'
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CONFIG": cluster % worker}
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", SEVERAL, str(tmp_path)],
                env=environment,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    names = [process.communicate(timeout=300)[0].split()[-1] for process in running]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for worker, name in enumerate(names):
        assert f"-w{worker}-" in name
        assert verify(tmp_path / name) == ()
