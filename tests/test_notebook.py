"""Does a notebook get by with three functions: load, diagnose, replay_step?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import divergence_doctor
from divergence_doctor import load, replay_step
from divergence_doctor.errors import NotFoundError, OutputError, UsageError
from divergence_doctor.trace.synthetic import training_trace

RUN = Path(__file__).parent.parent / "sample_runs" / "sqrt_at_zero"


def test_load_opens_a_trace(tmp_path):
    training_trace(losses=(1.0, 0.5)).save(tmp_path / "trace.h5")
    assert load(tmp_path / "trace.h5").steps.loss.tolist() == [1.0, 0.5]
    with pytest.raises(NotFoundError):
        load(tmp_path / "none.h5")


@pytest.mark.slow
def test_a_step_is_replayed_in_this_process(tmp_path):
    done = replay_step(
        RUN / "model.keras",
        RUN / "batch.npz",
        out=tmp_path / "out",
        custom_objects=[RUN / "custom.py"],
        trials=False,
        as_trained=False,
    )

    assert done.diagnosis.main.finding.cause == "gradient-singularity"
    assert done.trace.outcome == "diverged"
    assert (tmp_path / "out" / "report.html").is_file()
    html = done._repr_html_()
    assert "gradient-singularity" in html
    assert "The reports are in" in html
    with pytest.raises(OutputError, match="exists already"):
        replay_step(RUN / "model.keras", RUN / "batch.npz", out=tmp_path / "out")


def test_a_batch_is_asked_for():
    with pytest.raises(UsageError, match="no batch"):
        replay_step(RUN / "model.keras")


def test_an_option_that_there_is_not_is_an_error():
    with pytest.raises(TypeError, match="stepz"):
        replay_step(RUN / "model.keras", RUN / "batch.npz", stepz=3)


def test_every_public_name_is_there():
    assert all(hasattr(divergence_doctor, name) for name in divergence_doctor.__all__)
    assert set(dir(divergence_doctor)) == set(divergence_doctor.__all__)


def test_a_function_keeps_its_name_beside_the_module_of_that_name():
    code = (
        "from divergence_doctor import postmortem; from divergence_doctor import postmortem as p\n"
        "import divergence_doctor; from divergence_doctor.postmortem import Postmortem\n"
        "assert callable(p) and callable(divergence_doctor.postmortem)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
