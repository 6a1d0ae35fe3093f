"""The recorder's parts by themselves: soundness, pace, snapshot, history, loss scale, manifest."""

from __future__ import annotations

import subprocess
import sys
import traceback

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from divergence_doctor.capture import manifest
from divergence_doctor.capture.frames import clean_chain, without_ours
from divergence_doctor.capture.history import History
from divergence_doctor.capture.pace import LONGEST, Pace
from divergence_doctor.capture.rate import LossScale
from divergence_doctor.capture.snapshot import Snapshot
from divergence_doctor.capture.soundness import fault
from divergence_doctor.capture.variables import watched
from tests.capture._models import dropout

DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.data())
def test_values_are_sound_where_each_is_finite_however_large(dtype, data):
    largest = float(ml_dtypes.finfo(dtype).max)
    numbers = st.sampled_from([0.0, 1.0, -1.0, largest, -largest, float("nan"), float("inf")])
    drawn = data.draw(st.lists(numbers, min_size=1, max_size=40))
    values = np.array(drawn).astype(dtype)
    slow = bool(np.isfinite(values.astype(np.float64)).all())
    with np.errstate(all="ignore"):
        assert (fault(values) == "") == slow


def test_below_zero_is_impossible_where_a_square_is_kept_but_not_by_rounding():
    assert fault(np.array([1.0, -0.1], np.float32), signed=False) == "below zero"
    assert fault(np.array([1.0, -1e-9], np.float32), signed=False) == ""
    assert fault(np.array([1.0, -0.1], np.float32)) == ""
    assert fault(np.array([1.0, -0.5], ml_dtypes.bfloat16), signed=False) == "below zero"
    assert fault(np.zeros((0,), np.float32)) == ""


def test_snapshots_are_as_far_apart_as_the_budget_asks():
    pace = Pace(0.02)
    assert pace.is_due()
    pace.paid(0.1)
    taken = []
    for step in range(1_000):
        if pace.is_due():
            taken.append(step)
            pace.paid(0.02)
        pace.stepped(0.1, 0.0005)
    # A step earns 2 ms less 0.5 ms; a snapshot costs 20 ms, and as much again afterwards.
    assert np.diff(taken[3:]) == pytest.approx(40 / 1.5, abs=1)
    assert pace.interval == pytest.approx(40 / 1.5, abs=1)
    assert pace.overhead < 0.021


def test_a_fixed_distance_and_the_longest_one_are_kept():
    fixed, never = Pace(0.5, every=3), Pace(1e-9)
    for pace in (fixed, never):
        pace.paid(1.0)
    due = []
    for step in range(7):
        if fixed.is_due():
            due.append(step)
            fixed.paid(1.0)
        fixed.stepped(100.0, 0.0)
    assert due == [3, 6]
    for _ in range(LONGEST):
        assert not never.is_due()
        never.stepped(1e-3, 0.0)
    assert never.is_due()


def test_there_are_snapshots_where_a_step_is_shorter_than_its_own_record():
    pace = Pace(0.01)
    pace.paid(1e-3)
    for _ in range(300):
        pace.stepped(1e-3, 1e-3)
    assert pace.is_due()


def test_the_copy_is_made_in_place_and_only_of_a_sound_state(keras):
    model = dropout()
    model.optimizer.build(model.trainable_variables)
    variables = watched([model], [])
    snapshot = Snapshot()
    assert snapshot.take(variables, 0) is None
    places = [snapshot.values(one) for one in variables]
    kernel = next(one for one in variables if one.path.endswith("kernel"))
    kernel.variable.assign(np.full(kernel.variable.shape, 2.0, np.float32))
    assert snapshot.take(variables, 5) is None
    assert all(a is snapshot.values(one) for a, one in zip(places, variables, strict=True))
    assert (snapshot.values(kernel) == 2).all()
    kernel.variable.assign(np.full(kernel.variable.shape, np.inf, np.float32))
    found = snapshot.take(variables, 9)
    assert str(found) == f"NaN or Inf in weight {kernel.path}"
    assert snapshot.step == 5
    assert (snapshot.values(kernel) == 2).all()
    assert snapshot.bytes == sum(one.read().nbytes for one in variables)


def test_a_loss_scale_that_finds_its_value_is_not_frozen():
    class Optimizer:
        initial_scale = 2.0**15
        dynamic_scale = None

    scale = LossScale(Optimizer())
    scales = [2.0 ** (15 - n) for n in range(20)]
    assert not any(scale.after_step(one) for one in scales)
    assert scale.skipped == 19
    assert scale.after_step(scales[-1]) == ""
    assert scale.skipped == 0
    said = [scale.after_step(2.0 ** (-4 - n)) for n in range(1, 12)]
    assert said[8] == ""
    assert "down to a loss scale of 6.1e-05" in said[9]


def test_a_spike_needs_a_past_to_stand_out_of():
    history = History()
    assert not any(history.spike(100.0, 2.0) for _ in range(20))
    assert history.spike(199.0, 2.0) == ""
    assert "2.5 times the usual 100" in history.spike(250.0, 2.0)
    assert history.spike(None, 2.0) == ""


def test_history_ends_with_the_last_thousand_steps():
    history = History()
    for step in range(1_200):
        history.add(step, 0, 1.0, None, 0.1, None)
    columns = history.columns(None)
    assert {len(column) for column in columns.values()} == {1_000}
    assert columns["step"][0] == 200


def test_the_environment_is_told_by_its_flags_alone(keras, monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.setenv("TF_CONFIG", '{"cluster": {"worker": ["10.0.0.1:1"]}}')
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    told = manifest.machine()["environment"]
    assert told["TF_ENABLE_ONEDNN_OPTS"] == "0"
    assert not {"TF_CONFIG", "AWS_SECRET_ACCESS_KEY"} & set(told)


def test_a_commit_is_read_off_the_files_of_git(tmp_path):
    assert manifest.commit(tmp_path) is None
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "--allow-empty", "-m", "one"],
    ):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)  # noqa: S607 - as found
    said = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607
        cwd=tmp_path, check=True, capture_output=True, text=True,
    )  # fmt: skip
    (tmp_path / "inner").mkdir()
    assert manifest.commit(tmp_path / "inner") == said.stdout.strip()
    subprocess.run(["git", "pack-refs", "--all"], cwd=tmp_path, check=True)  # noqa: S607
    assert manifest.commit(tmp_path) == said.stdout.strip()


def test_a_worker_is_told_by_its_task(monkeypatch):
    for told, name in (
        ("", "0"), ("no json", "0"), ('{"task": {"type": "worker", "index": 3}}', "3"),
        ('{"task": {"type": "chief", "index": 0}}', "chief0"), ('{"task": 5}', "0"),
    ):  # fmt: skip
        monkeypatch.setenv("TF_CONFIG", told)
        assert manifest.worker() == name


def test_a_traceback_is_told_without_our_frames():
    def raises():
        sorted([1, "a"])

    with pytest.raises(TypeError) as caught:
        _failing(raises).fails()
    error = caught.value
    trace = without_ours(error.__traceback__)
    files = [frame.filename for frame in traceback.extract_tb(trace)]
    assert set(files) == {__file__}
    assert len(files) == len(traceback.extract_tb(error.__traceback__)) - 2
    clean_chain(error)
    assert len(traceback.extract_tb(error.__traceback__)) == len(files)


def _failing(raises):
    """Return something whose error comes through a line of the recorder's own."""

    class Variable:
        on_host, checked, read = True, False, staticmethod(raises)

    class Looks:
        def fails(self):
            return Snapshot().look([Variable()])

    return Looks()


def test_importing_the_package_and_its_command_loads_neither_keras_nor_tensorflow():
    code = (
        "import sys, divergence_doctor, divergence_doctor.capture, divergence_doctor.cli;"
        "import divergence_doctor.capture.attachment, divergence_doctor.capture.script;"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
